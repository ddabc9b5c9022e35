"""Datasets that Python packages ship."""
