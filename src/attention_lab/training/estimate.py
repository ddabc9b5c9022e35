"""Estimate what a training costs: floating point operations, memory and tokens.

Steps are run on fake tensors, which have a size but no values. This trains nothing, and takes
neither the memory nor the time of a step.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

# These are documented for users, but only private modules of PyTorch have them.
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from attention_lab.attention import attention_layers
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.quantities import format_quantity
from attention_lab.training.build import BuiltRun, device_type
from attention_lab.training.trainer import TrainerOptions
from attention_lab.training.weight_averaging import AveragedWeights

#: The type of the weights, and that of autocast or None, by ``trainer.precision``.
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
}
#: Batches of an epoch, from short to long ones, whose operations are counted.
SAMPLED = 3


def _additive_flops(query: Tensor, key: Tensor, *_: Any, out_val: Any) -> int:
    """A product with a vector over the hidden size for each pair: its result, or two gradients."""
    products = 1 if isinstance(out_val, Tensor) else 2
    return products * 2 * query.numel() * key.shape[-2]


#: The operations of operators by their arguments. PyTorch's registry lacks the last four.
FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    torch.ops.attention_lab.additive_logits: _additive_flops,
    torch.ops.attention_lab.additive_gradients: _additive_flops,
}


def _all_nonzero(condition: Tensor) -> Tensor:
    return condition.new_empty((condition.numel(), condition.ndim), dtype=torch.int64)


#: Operators whose result has a size that depends on values, and a result of the largest size.
OF_VALUES: dict[Any, Callable[..., Any]] = {torch.ops.aten.nonzero.default: _all_nonzero}


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that training needs on each device, at the peak of a step.

    These are the bytes of tensors, without libraries, the dataset and validation.
    """

    #: With their averages, if there are any.
    weights: float
    gradients: float
    optimizer: float
    #: What the backward pass needs, with everything that a step keeps only for a moment.
    activations: float
    #: Layers that FSDP gathers, and their gradients.
    gathered: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.gathered

    def describe(self, where: str = "") -> str:
        """The total and its parts: "134 MB (4 MB weights, 4 MB gradients, …)"."""
        parts = {name: value for name, value in vars(self).items() if value}
        each = ", ".join(f"{format_quantity(value, 'B')} {name}" for name, value in parts.items())
        return f"{format_quantity(self.total, 'B')}{where} ({each})"


@dataclass(frozen=True)
class Estimate:
    """What a training costs. FLOPs and tokens are those of all processes together."""

    parameters: int
    steps: int
    #: Without padding, as ``tokens_per_second`` of a finished run counts them.
    tokens: float
    #: Floating point operations of matrix products, convolutions and attention, forward and
    #: backward; a multiplication and an addition are two.
    flops: float
    memory: DeviceMemory
    #: Bytes that each device sends in a step, with a ring of devices.
    traffic: float


def estimate(run: BuiltRun) -> Estimate:
    """Estimate what a built run costs. No random numbers are drawn, and the run is unchanged.

    Raises:
        Exception: any, if the model cannot run on fake tensors, as it reads values of tensors.
    """
    options = run.trainer_options
    processes, accumulated = options.devices * options.num_nodes, options.accumulate_grad_batches
    batches = _Batches(run)
    steps, _ = options.length(len(batches.rows))
    simulation = _Simulation(run)
    memory = simulation.peak_memory(batches.largest())
    per_batch = [simulation.flops(batch) for batch in batches.sample()]
    per_step = accumulated * batches.share * sum(per_batch) / len(per_batch)
    flops = per_step + simulation.optimizer_flops
    return Estimate(
        sum(parameter.numel() for parameter in run.task.model.parameters()),
        steps,
        steps * processes * accumulated * batches.mean_tokens,
        steps * processes * flops,
        _per_device(memory, run),
        _traffic(memory, options),
    )


class _Batches:
    """The training batches of rank 0 in an epoch, from short to long ones."""

    def __init__(self, run: BuiltRun) -> None:
        data, options = run.data, run.trainer_options
        self._split = data.training_rows()
        self._lengths = self._split.lengths()
        replicas, accumulated = options.devices * options.num_nodes, options.accumulate_grad_batches
        sampler = BucketBatchSampler(
            self._lengths, data.batch_size, False, 0, replicas, 0, accumulated
        )
        self.rows = list(sampler)
        #: The mean size of a rank's batch relative to rank 0's, which may have an example more.
        self.share = len(self._lengths) / (replicas * sum(map(len, self.rows)))
        # The first token of each target is not predicted, so it does not count.
        examples, sequences = self._lengths.shape
        total = int(self._lengths.sum()) - examples * (sequences - 1)
        self.mean_tokens = total / (len(self.rows) * replicas)

    def largest(self) -> Any:
        """The batch with the most tokens, padding included."""
        return self._split.select(max(self.rows, key=self._padded_size))

    def _padded_size(self, rows: Tensor) -> int:
        return len(rows) * int(self._lengths[rows].amax(0).sum())

    def sample(self) -> Iterator[Any]:
        """The batches in the middle of equal parts of the epoch."""
        number = min(SAMPLED, len(self.rows))
        for part in range(number):
            yield self._split.select(self.rows[int((part + 0.5) * len(self.rows) / number)])


@dataclass
class _Peak:
    """Bytes of one process at the peak of a step, without sharding."""

    weights: int
    gradients: int
    optimizer: int
    total: int
    #: Weights outside of stacks of layers, and those of the largest layer.
    outside: int
    largest_layer: int


class _Simulation:
    """A copy of a run's task with fake weights, and its optimizer."""

    def __init__(self, run: BuiltRun) -> None:
        self._options = run.trainer_options
        self._fake, self._meter = FakeTensorMode(allow_non_fake_inputs=True), _Meter()
        dtype, self._autocast = PRECISIONS[str(self._options.precision)]
        self._dtype = dtype
        with self._fake:
            memo: dict[int, Any] = {id(run.task.data): run.task.data}
            for tensor in [*run.task.parameters(), *run.task.buffers()]:
                memo[id(tensor)] = self._faked(tensor)
        self._task = copy.deepcopy(run.task, memo)
        if device_type(self._options) != "cpu":
            _fuse_dropout(self._task.model)
        with self._fake:
            self._optimizer = run.task.optimization.create_optimizer(self._task.model)
        self.optimizer_flops = 0

    def peak_memory(self, batch: Any) -> _Peak:
        """The peak of the second step: gradients and optimizer state exist from the first on."""
        model = self._task.model
        with self._fake, self._meter:
            for parameter in model.parameters():
                self._meter.count(parameter)
            for _ in range(2):
                self._meter.peak = self._meter.live
                self._step(batch)
        layers = [
            layer
            for stack in model.modules()
            if isinstance(stack, nn.ModuleList)
            for layer in stack
        ]
        sizes = [_size(layer.parameters()) for layer in layers]
        weights = _size(model.parameters())
        return _Peak(
            weights,
            _size(p.grad for p in model.parameters() if p.grad is not None),
            _size(tree_leaves(list(self._optimizer.state.values()))),
            self._meter.peak,
            weights - sum(sizes),
            max(sizes, default=0),
        )

    def flops(self, batch: Any) -> int:
        """Floating point operations of the forward and backward pass of a batch."""
        with self._fake, self._meter:
            before = self._meter.flops
            self._backward(batch)
            return self._meter.flops - before

    def _step(self, batch: Any) -> None:
        self._backward(batch)
        options = self._options
        self._task.configure_gradient_clipping(
            self._optimizer, options.gradient_clip_val, options.gradient_clip_algorithm
        )
        before = self._meter.flops
        self._optimizer.step()
        self.optimizer_flops = self._meter.flops - before

    def _backward(self, batch: Any) -> None:
        with self._autocasting(), _NoPadding(), _without_onednn():
            loss = self._task.loss(tree_map_only(Tensor, self._faked, batch)).mean
        if self._options.accumulate_grad_batches == 1:
            self._optimizer.zero_grad()  # after the forward pass, as Lightning
        loss.backward()

    def _faked(self, tensor: Tensor) -> Tensor:
        """A fake tensor of the same size, in the type of the precision."""
        dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
        fake = torch.empty(tensor.shape, dtype=dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake

    def _autocasting(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast("cpu", self._autocast)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Compute without oneDNN, whose recurrent layers hide their operations and their memory."""
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # torch declares it otherwise
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def _fuse_dropout(model: nn.Module) -> None:
    """Remove the dropout of attention by SDPA: kernels of GPUs keep no weights for it."""
    for layer in attention_layers(model).values():
        if layer.backend.name == "sdpa":
            layer.dropout = 0.0


class _NoPadding(TorchFunctionMode):
    """Packs padded sequences as if they had no padding, since their lengths are unknown."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence":
            padded, _, batch_first = args
            self._sizes = padded.shape[:2]
            with unset_fake_temporarily():
                batch_sizes = torch.full((self._sizes[batch_first],), self._sizes[1 - batch_first])
            return padded.flatten(0, 1).clone(), batch_sizes
        if name == "_pad_packed_sequence":
            padded = args[0].unflatten(0, self._sizes).clone()
            return padded, torch.empty(self._sizes[0], dtype=torch.int64)
        return func(*args, **(kwargs or {}))


class _Meter(TorchDispatchMode):
    """Counts floating point operations, and the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._storages: dict[int, ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = self._compute(func, args, kwargs)
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return output

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator. On real tensors, such as the batch sizes of an RNN, it is computed."""
        kinds = [type(value) for value in args if isinstance(value, Tensor)]
        if kinds and FakeTensor not in kinds:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        try:
            return OF_VALUES.get(func, func)(*args, **kwargs)
        except DataDependentOutputException:
            # The number that Tensor.item() returns, for example the norm of a parameter.
            if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
                return 0.5
            raise

    def count(self, tensor: Tensor) -> None:
        """Count the bytes of a tensor until its storage is freed, once for all views of it."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._storages:
            self._storages[key] = ref(storage, lambda _: self._free(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        del self._storages[key]
        self.live -= size


def _size(tensors: Any) -> int:
    return sum(
        tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor)
    )


def _per_device(peak: _Peak, run: BuiltRun) -> DeviceMemory:
    """The memory on each device, under the run's strategy."""
    options = run.trainer_options
    processes = options.devices * options.num_nodes
    activations = peak.total - peak.weights - peak.gradients - peak.optimizer
    if options.strategy != "fsdp" or processes == 1:
        averages = sum(isinstance(callback, AveragedWeights) for callback in run.callbacks)
        weights = peak.weights * (1 + averages)
        return DeviceMemory(weights, peak.gradients, peak.optimizer, activations)
    # FSDP gathers two layers at a time, and holds the gradients of a layer before and after it
    # reduces them. The weights outside of layers stay gathered, and so do their gradients.
    gathered = 2 * peak.outside + 4 * peak.largest_layer
    return DeviceMemory(
        peak.weights / processes,
        peak.gradients / processes,
        peak.optimizer / processes,
        activations,
        gathered,
    )


def _traffic(peak: _Peak, options: TrainerOptions) -> float:
    """Bytes that each device sends in a step.

    DDP reduces and gathers the gradients once a step. FSDP gathers the weights in the forward and
    in the backward pass and reduces the gradients, for each batch (Rajbhandari et al. 2020, §7).
    """
    processes = options.devices * options.num_nodes
    sent = (processes - 1) / processes
    if options.strategy == "fsdp":
        return sent * options.accumulate_grad_batches * (2 * peak.weights + peak.gradients)
    return sent * 2 * peak.gradients
