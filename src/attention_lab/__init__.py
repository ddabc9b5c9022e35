"""Attention Lab: compare attention mechanisms, and trust the answer.

>>> import attention_lab as al
>>> config = al.compose("attention=additive", "data=g2p")
>>> run = al.train(config)  # doctest: +SKIP
>>> run.predict(["tomato"])  # doctest: +SKIP
['T AH M EY T OW']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_lab.api.compose import compose
    from attention_lab.api.run import Run, load_run
    from attention_lab.api.sweep import Sweep, load_sweep
    from attention_lab.api.train import train

__all__ = ["Run", "Sweep", "compose", "load_run", "load_sweep", "train"]

#: The modules of the names above; they are imported when a name is first used.
_MODULES = {"Run": "run", "Sweep": "sweep", "load_run": "run", "load_sweep": "sweep"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"attention_lab.api.{_MODULES.get(name, name)}")
    return getattr(module, name)
