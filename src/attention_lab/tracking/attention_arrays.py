"""Attention maps as arrays, in a file that ``numpy.load`` reads."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from attention_lab.atomic_write import replacing
from attention_lab.tracking.attention_map import AttentionMap


def write_arrays(maps: Iterable[AttentionMap], file: Path) -> None:
    """Write attention maps to a compressed ``.npz`` file.

    ``numpy.load(file, allow_pickle=False)`` reads four arrays for each layer: ``LAYER/weights``
    (H, L, S) float32; ``LAYER/rows`` (L,) and ``LAYER/columns`` (S,), the names of queries and keys
    as text; and ``LAYER/hidden`` (H, L, S) bool, True where the mask hides a key from a query.

    Args:
        maps: one map for each layer.
        file: the file, which is replaced; its folder is created if missing.

    Raises:
        OSError: if it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for each in maps:
        weights = each.weights.float().numpy()
        hidden = np.zeros(weights.shape, bool) if each.hidden is None else each.hidden.numpy()
        arrays |= {
            f"{each.layer}/weights": weights,
            f"{each.layer}/rows": np.array(each.rows, str),
            f"{each.layer}/columns": np.array(each.columns, str),
            f"{each.layer}/hidden": hidden,
        }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=False) as opened:
        np.savez_compressed(opened, allow_pickle=False, **arrays)
