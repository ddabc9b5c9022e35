"""Datasets that come with Python packages."""
