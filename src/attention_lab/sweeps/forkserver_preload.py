"""Imports and caches that every job needs; the fork server imports this module last.

Jobs are forked with these modules loaded: the imports are needed, although nothing here uses them.
"""

import gc

import torch.utils.serialization  # noqa: F401  # checkpoints are saved with it
from torch.autograd.profiler import record_function

import attention_lab.sweeps.forkserver  # noqa: F401  # imports the packages that train
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.fonts import default_font
from attention_lab.tracking.viewer import template

code_version()
template()
default_font()
with record_function("preload"):  # an optimizer's step uses it; its first use imports a module
    pass
# Objects that exist now live as long as every job: garbage collection in jobs skips them.
gc.collect()
gc.freeze()
