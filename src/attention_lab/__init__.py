"""Attention Lab: compare attention mechanisms, and trust the answer."""
