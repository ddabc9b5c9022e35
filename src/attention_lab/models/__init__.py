"""Networks built from attention; each takes its mechanisms as factories."""
