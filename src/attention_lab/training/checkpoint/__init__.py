"""Checkpoints: the files, when they are saved, and the random states in them."""
