"""From files to clips."""
