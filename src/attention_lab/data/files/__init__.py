"""Datasets that are read from the user's own files."""
