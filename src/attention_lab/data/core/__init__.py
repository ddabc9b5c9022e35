"""What all datasets are made of: data module, splits, batches, vocabulary, metrics."""
