"""Features of videos on disk, and what is found with them."""
