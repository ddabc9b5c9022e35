"""Runs read back from their files, compared over seeds, and reported."""
