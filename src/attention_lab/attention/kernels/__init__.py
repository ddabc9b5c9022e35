"""Kernels: fast code for parts of attention that PyTorch has no fast operator for."""
