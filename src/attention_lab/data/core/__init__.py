"""The parts that datasets share: data module, splits, batches, vocabularies, metrics."""
