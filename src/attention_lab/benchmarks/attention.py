"""Time, memory and achieved share of the device's ceilings of attention, by length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import Cache
from attention_lab.benchmarks.ceilings import Ceilings, Work, measure_ceilings
from attention_lab.benchmarks.implementations import Implementation, Setting, Skipped, decoder
from attention_lab.benchmarks.timing import Call, Timing, interleaved, peak_memory, seconds_of
from attention_lab.benchmarks.work import count
from attention_lab.memory import check_fits

FORWARD, TRAINING, DECODING = "forward", "forward + backward", "decode step"
PASSES = (FORWARD, TRAINING, DECODING)
#: The relative error, in norm, up to which two implementations compute the same.
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
#: Tensors of the largest size that plain operations keep for the backward pass, about.
KEPT = 4


class OtherResult(ValueError):
    """An implementation computes something else than the formula that it is compared with."""


class Measurement(NamedTuple):
    """The figures of one implementation, in one pass at one length."""

    name: str
    pass_name: str
    length: int
    projects: bool
    timing: Timing
    #: Bytes.
    peak: int
    #: The shortest possible time at the measured ceilings, divided by the time.
    share: float


@dataclass
class Results:
    """All measurements, and the calls that could not be measured."""

    setting: Setting
    ceilings: Ceilings
    measurements: list[Measurement]
    skipped: list[Skipped]


class Prepared(NamedTuple):
    """A call that is ready to be timed, and the work that it must at least do."""

    call: Call
    work: Work


def benchmark(
    implementations: Sequence[Implementation],
    setting: Setting,
    repeat: int,
    time_limit: float,
    progress: Callable[[str], None],
) -> Results:
    """Measure all implementations, in all passes and at all lengths.

    Args:
        implementations: what to measure.
        setting: the sizes, and where to run.
        repeat: how often each call is timed.
        time_limit: calls that take longer, in seconds, are skipped.
        progress: called with a line before each length.

    Raises:
        OtherResult: if an implementation's output or gradients are not those of its formula.
    """
    progress("measuring the device's ceilings …")
    ceilings = measure_ceilings(setting.device, setting.dtype)
    results = Results(setting, ceilings, [], [])
    progress(f"checking outputs and gradients of {len(implementations)} implementations …")
    able = list(_checked(implementations, setting, results.skipped))
    fast = {
        FORWARD: able,
        TRAINING: [each for each in able if each.trains],
        DECODING: [each for each in able if each.decodes],
    }
    for length in sorted(setting.lengths):
        for pass_name in PASSES:
            progress(f"length {length:,}: {pass_name} …")
            fast[pass_name] = _measure(
                fast[pass_name], pass_name, length, results, repeat, time_limit
            )
    return results


def make_inputs(
    implementation: Implementation, setting: Setting, length: int, device: str | None = None
) -> list[Tensor]:
    """Random inputs of a call, the same for all calls with the same shapes."""
    generator = torch.Generator().manual_seed(length)
    heads = implementation.reference.num_kv_heads
    size = (setting.batch_size, setting.num_heads, length, setting.head_dim)
    shapes: list[tuple[int, ...]] = [size, *2 * [(size[0], heads, *size[2:])]]
    if implementation.projects:
        shapes = [(setting.batch_size, length, setting.embed_dim)]
    device = device or setting.device
    if device == "meta":
        return [torch.empty(each, device="meta", dtype=setting.dtype) for each in shapes]
    made = (torch.randn(each, generator=generator) for each in shapes)
    return [each.to(device, setting.dtype) for each in made]


def _checked(
    implementations: Sequence[Implementation], setting: Setting, skipped: list[Skipped]
) -> Iterator[Implementation]:
    """Those that can be called, if output and gradients at the shortest length are right."""
    length = min(setting.lengths)
    for each in implementations:
        inputs = make_inputs(each, setting, length)
        try:
            with torch.no_grad():
                output = each.call(*inputs, causal=setting.causal)
        except _refusals(each) as error:
            skipped.append(Skipped(each.name, _reason(error)))
            continue
        with torch.no_grad():
            expected = each.reference_output(*inputs, causal=setting.causal)
        _compare(each, "output differs from that", output, expected)
        if each.trains:
            _check_gradients(each, inputs, setting.causal)
        yield each


def _check_gradients(implementation: Implementation, inputs: list[Tensor], causal: bool) -> None:
    """Raise OtherResult if the gradients for the inputs are not the formula's."""
    for each in inputs:
        each.requires_grad_()

    def gradients(call: Callable[..., Tensor]) -> Tensor:
        output = call(*inputs, causal=causal)
        # Not the output itself: if its norm is fixed, by a normalization, that gradient is 0.
        direction = output.detach().flip(-1)
        grads = torch.autograd.grad(output, inputs, direction, materialize_grads=True)
        return torch.cat([grad.flatten() for grad in grads])

    try:
        actual = gradients(implementation.call)
    except _refusals(implementation):
        return  # it is skipped, with the reason, when it is to be timed
    expected = gradients(implementation.reference_output)
    _compare(implementation, "gradients differ from those", actual, expected)


def _compare(
    implementation: Implementation, what_differs: str, actual: Tensor, expected: Tensor
) -> None:
    difference, limit = float((actual - expected).norm() / expected.norm()), TOLERANCE[actual.dtype]
    if not difference <= limit:
        raise OtherResult(
            f"{implementation.name}: its {what_differs} of our reference by "
            f"{difference:.2g}, relative in norm (at most {limit:g} is rounding)"
        )


def _refusals(implementation: Implementation) -> tuple[type[Exception], ...]:
    """The errors that mean that a call cannot run here; any other error is a fault of ours.

    Our checks of time, memory and backends raise ValueError, and torch raises the two others if it
    lacks memory or an operation for the data type.
    """
    if implementation.may_refuse:
        return ValueError, RuntimeError
    return ValueError, NotImplementedError, torch.OutOfMemoryError


def _measure(
    implementations: Sequence[Implementation],
    pass_name: str,
    length: int,
    results: Results,
    repeat: int,
    time_limit: float,
) -> list[Implementation]:
    """Add the measurements of one pass at one length; returns what to measure at the next."""
    device = results.setting.device
    ready: dict[str, Prepared] = {}
    kept = []
    for each in implementations:
        try:
            prepared = _prepare(each, pass_name, results, length, time_limit)
            prepared.call()  # may compile
            if (seconds := seconds_of(prepared.call, device)) > time_limit:
                raise TooSlow(f"a call takes {seconds:.1f} s; raise --time-limit")
        except _refusals(each) as error:
            name = f"{each.name}, {pass_name}, length {length:,}"
            results.skipped.append(Skipped(name, _reason(error)))
        else:
            ready[each.name] = prepared
            kept.append(each)
    times = interleaved({name: it.call for name, it in ready.items()}, repeat, device)
    for each in kept:
        (call, work), timing = ready[each.name], times[each.name]
        share = results.ceilings.seconds(work) / timing.median
        peak = peak_memory(call, device)
        results.measurements.append(
            Measurement(each.name, pass_name, length, each.projects, timing, peak, share)
        )
    return kept


class TooSlow(ValueError):
    """A call takes longer than the limit."""


def _prepare(
    implementation: Implementation,
    pass_name: str,
    results: Results,
    length: int,
    time_limit: float,
) -> Prepared:
    """A call of an implementation.

    Raises:
        TooLarge: if the call does not fit into memory.
        TooSlow: if it would take far longer than the limit.
    """
    setting = results.setting
    meta = implementation.on_meta()
    on_meta = make_inputs(meta, setting, length, "meta")
    call, moved = pass_call(meta, pass_name, on_meta, setting.causal)
    work, largest = count(call, moved)
    if is_halved(implementation, pass_name, setting):
        visible = (length + 1) / (2 * length)  # share of the pairs
        work = Work(work.flops * visible, work.bytes, work.specials * visible)
    if implementation.is_eager:
        free = torch.cuda.mem_get_info()[0] if setting.device == "cuda" else None
        check_fits("it needs about", KEPT * largest, free)
    earlier = [it for it in results.measurements if it[:2] == (implementation.name, pass_name)]
    predicted = results.ceilings.seconds(work) / earlier[-1].share if earlier else 0.0
    if predicted > 2 * time_limit:  # a short call's share is small, so this is too high
        raise TooSlow(f"a call would take about {predicted:.1f} s; raise --time-limit")
    inputs = make_inputs(implementation, setting, length)
    return Prepared(pass_call(implementation, pass_name, inputs, setting.causal)[0], work)


def is_halved(implementation: Implementation, pass_name: str, setting: Setting) -> bool:
    """Whether a causal mask hides half of the pairs that the formula computes."""
    layer = implementation.reference
    is_causal = setting.causal or layer.mask.is_causal
    return is_causal and pass_name != DECODING and "L·S" in layer.info.time


def pass_call(
    implementation: Implementation, pass_name: str, inputs: list[Tensor], causal: bool
) -> tuple[Call, int]:
    """One pass as a function, and the bytes that it must move at least."""
    moved = sum(it.nbytes for it in inputs) + inputs[0].nbytes
    if pass_name == TRAINING:
        return _training(implementation, inputs, causal), 2 * moved
    if pass_name == FORWARD:
        return torch.no_grad()(partial(implementation.call, *inputs, causal=causal)), moved
    if implementation.layer is None:
        one = (inputs[0][:, :, -1:], *inputs[1:])
        return torch.no_grad()(partial(implementation.call, *one, causal=False)), 0
    cache = Cache()
    with torch.no_grad():
        step = decoder(implementation.layer, cache, *inputs)
    return torch.no_grad()(step), cache.size


def _training(implementation: Implementation, inputs: list[Tensor], causal: bool) -> Call:
    """Forward and backward pass, with gradients of the inputs and the parameters."""
    for each in inputs:
        each.requires_grad_()
    wanted = [*inputs, *implementation.parameters]

    def call() -> None:
        output = implementation.call(*inputs, causal=causal)
        torch.autograd.grad(output, wanted, output.detach(), allow_unused=True)

    return call


def _reason(error: Exception) -> str:
    """The first line of an error."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
