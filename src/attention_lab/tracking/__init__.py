"""What a run leaves behind: its directory, metrics, loggers, attention maps and their viewer."""
