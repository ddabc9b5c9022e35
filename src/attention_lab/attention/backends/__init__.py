"""Backends: ways to compute attention from a score, a normalizer, positions and a mask.

``api`` chooses one and calls it; ``validation`` says what each can compute. ``reference`` is eager,
for everything. ``sdpa``, ``flex``, ``fused`` and ``tiled`` are faster, but support fewer parts.
``cpu`` has the code in C that ``fused`` calls there, ``triton`` its kernels for GPUs. ``blocks``
splits sequences under a sliding window.
"""
