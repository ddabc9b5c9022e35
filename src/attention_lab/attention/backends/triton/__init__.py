"""Kernels in Triton for NVIDIA and AMD GPUs, and for Triton's interpreter on the CPU."""
