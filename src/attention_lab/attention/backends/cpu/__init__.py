"""Code in C for the CPU."""
