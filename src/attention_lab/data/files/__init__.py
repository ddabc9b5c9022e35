"""Datasets read from the user's files."""
