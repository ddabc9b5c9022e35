"""Training: objectives, optimization, checkpoints, and building a run from a config."""
