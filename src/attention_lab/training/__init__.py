"""Training one run: tasks, optimizer, checkpoints, several processes, evaluation."""
