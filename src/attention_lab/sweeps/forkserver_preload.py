"""What every job needs, made once: the server from which jobs are forked imports this last."""

import gc

import matplotlib.backends.backend_agg  # noqa: F401
import torch.utils.serialization  # noqa: F401

import attention_lab.sweeps.forkserver  # noqa: F401
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.viewer import template

code_version()
template()
# What there is by now outlives every job: their garbage collectors need not go through it, page
# after page, again and again.
gc.collect()
gc.freeze()
