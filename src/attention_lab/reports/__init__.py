"""Reports: runs are read from their files, compared over seeds, and shown."""
