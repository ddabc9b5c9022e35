"""Checks of constructor arguments, shared by attention, models and data."""


def check_positive(**sizes: int) -> None:
    """Raise ValueError, naming the argument, if a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_dropout(dropout: float) -> float:
    """Return ``dropout``; raise ValueError unless it is a probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    return dropout
