"""Mechanisms: what stands between queries, keys and values. Each is one file."""
