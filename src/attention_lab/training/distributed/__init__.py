"""Distributed training: starting the ranks of a run, and communication between them."""
