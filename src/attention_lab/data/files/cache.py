"""The cache directory of data files."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """``attention-lab`` in $XDG_CACHE_HOME, or in ~/.cache.

    It may be deleted when no run is reading it; its files are recreated when needed.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention-lab"
