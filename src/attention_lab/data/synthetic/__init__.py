"""Datasets that are drawn by a seeded generator."""
