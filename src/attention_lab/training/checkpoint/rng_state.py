"""The states of all random generators that a run may draw from."""

import random
from typing import Any

import numpy as np
import torch
from lightning import seed_everything


def seed_rank(seed: int, rank: int) -> None:
    """Seed all generators of a rank, with a different seed on each rank.

    With equal seeds, dropout would drop the same units on every rank.
    """
    own = int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    seed_everything(own, workers=True, verbose=False)


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as plain data and tensors."""
    version, numbers, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    twister = numpy["state"]
    return {
        "python": [version, list(numbers), gauss],
        "numpy": numpy | {"state": {"key": twister["key"].tolist(), "pos": twister["pos"]}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the states that :func:`random_states` returned.

    If the number of GPUs has changed, only the states of the first GPUs are restored.
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)
