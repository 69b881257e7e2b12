"""What a run did, as one HTML page and as drawings over frames."""
