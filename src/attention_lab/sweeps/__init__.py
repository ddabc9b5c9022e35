"""Sweeps: many runs, launched, gone on with, tuned and watched."""
