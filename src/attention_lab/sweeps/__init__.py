"""Sweeps: many runs, launched, read back, compared and reported."""
