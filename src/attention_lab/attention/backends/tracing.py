"""Whether torch.jit.trace records a call."""

import torch


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` is recording this call as a graph."""
    # PyTorch's types do not list this public function.
    recording: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]  # see above
    return recording
