"""Networks made of attention. Each takes its mechanisms as factories and never asks which."""
