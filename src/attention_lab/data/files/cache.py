"""The cache directory of data files."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """The directory ``attention-lab`` in $XDG_CACHE_HOME, or in ~/.cache.

    It may be deleted while no run reads it; its files are recreated when they are needed.
    """
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "attention-lab"
    )
