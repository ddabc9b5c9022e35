"""The record of a run: its directory, metrics, loggers, attention maps and their viewer."""
