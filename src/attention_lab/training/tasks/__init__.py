"""The LightningModules: one for each task."""
