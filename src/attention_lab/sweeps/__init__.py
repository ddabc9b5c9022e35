"""Sweeps: launch, resume, tune and watch many runs."""
