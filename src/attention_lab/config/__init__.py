"""Configs: composed, validated, and turned into objects."""
