"""The contract: one suite of tests that every attention mechanism passes, yours included.

    pytest --pyargs attention_lab.contract
        [--attention-lab-config-dir CONF] [--attention-lab-mechanism NAME]

It needs ``pytest`` and composes the options of ``conf/attention/``, those of the groups in it, and
the ones in ``CONF``. A layer's ``info`` decides which tests apply to it.
"""
