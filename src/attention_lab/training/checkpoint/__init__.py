"""Checkpoints: the callback that saves them, their file format, and the random states in them."""
