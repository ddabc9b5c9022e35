"""Datasets as LightningDataModules, their vocabularies, batches and metrics."""
