"""The Python API: compose a config, train it, and load runs and sweeps."""

from attention_lab.training.distributed.cluster_environment import ignore_leftovers

ignore_leftovers()  # before Lightning is imported: it reads a rank from the environment then
