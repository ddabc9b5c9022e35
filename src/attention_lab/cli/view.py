"""`attention-lab view`: write a page with the attention maps of an input, and print its path.

With --format png, pdf or svg it draws one map of each run for a paper instead. With --format npz it
writes the maps of all layers as arrays.

Sequence to sequence: the maps of the generated output, or of a --target. Language model: of the
text, followed by a --target, or by --length tokens that the model generates. Classification: of the
text. Two runs are shown side by side, with their difference.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attention_lab.api.open_run import UnusableRun, checkpoint_at, local_run, open_run
from attention_lab.cli import fail, warn
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    add_decoding,
    given,
    run_path,
    whole,
)
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.tracking.attention_map import AttentionMap
    from attention_lab.training.build import BuiltRun
    from attention_lab.training.input_maps import InputMaps

#: The most weights of a map that are kept with four digits.
PRECISE = 2**20


class Viewed(NamedTuple):
    """A run and its maps of the input."""

    label: str
    run: "BuiltRun"
    maps: "InputMaps"


def run(arguments: Sequence[str]) -> int:
    """Write the page of an input; returns the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    *runs, chosen.text = chosen.inputs
    if not 1 <= len(runs) <= 2:
        parser.error(f"needs one or two runs and an input, got {len(runs)} runs")
    try:
        chosen.runs = [run_path(each) for each in runs]
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument RUN: {error}")
    _check(parser, chosen)
    try:
        chosen.runs = [local_run(each) for each in chosen.runs]
        chosen.step, checkpoints = _checkpoints(chosen)
        viewed = [_viewed(chosen, *each) for each in zip(chosen.runs, checkpoints, strict=True)]
        _require_same_data(viewed)
    except UnusableRun as error:
        return fail(str(error), 1)
    if unknown := viewed[0].maps.unknown:
        warn(f"tokens not in the vocabulary, read as <unk>: {unknown}")
    return _write(chosen, viewed)


def _check(parser: Parser, chosen: argparse.Namespace) -> None:
    """End the command if options do not go together."""
    if chosen.format in ("html", "npz") and (chosen.layer or chosen.head):
        whole_file = "the page" if chosen.format == "html" else "npz"
        figures = "--layer and --head are for --format png, pdf or svg"
        parser.error(f"{figures}; {whole_file} has all maps")
    if chosen.format == "npz" and len(chosen.runs) > 1:
        parser.error("--format npz holds the maps of one run")
    if chosen.checkpoint and chosen.step:
        parser.error("--step names a checkpoint, so --checkpoint cannot be used with it")
    for option in ("checkpoint", "step"):
        if len(getattr(chosen, option) or ()) > len(chosen.runs):
            parser.error(f"more values of --{option} than runs")
    if chosen.target is not None and chosen.length is not None:
        parser.error("--target gives the output, so --length cannot be used with it")


def _checkpoints(chosen: argparse.Namespace) -> tuple[list[int], list[str]]:
    """The --step of each run, if any is given, and the checkpoint of each run.

    Raises:
        UnusableRun: if a run has no checkpoint of a step.
    """
    runs: list[Path] = chosen.runs
    values = chosen.step or chosen.checkpoint or ["best"]
    values = values + values[-1:] * (len(runs) - len(values))  # the last one is for other runs, too
    if not chosen.step:
        return [], values
    return values, [checkpoint_at(*each) for each in zip(runs, values, strict=True)]


def _parser() -> Parser:
    parser = Parser("view", __doc__, "attention-lab view RUN [RUN] INPUT [options]")
    parser.add_argument("inputs", nargs="+", metavar="RUN… INPUT", help="one or two runs, a text")
    parser.add_argument(
        "--checkpoint",
        action="append",
        choices=("best", "last"),
        help="best (the default) or last; once for each run",
    )
    parser.add_argument(
        "--step",
        action="append",
        type=whole(0),
        help="the step of a kept checkpoint, in place of --checkpoint; once for each run",
    )
    parser.add_argument("--target", help="the output, in place of the generated one")
    parser.add_argument(
        "--length", type=whole(1), help="language model: tokens to generate, greedily (none)"
    )
    parser.add_argument("--output", type=Path, help="the file (RUN/attention/view/INPUT.html)")
    parser.add_argument(
        "--format",
        choices=("html", "png", "pdf", "svg", "npz"),
        default="html",
        help="html: the page; npz: arrays for numpy.load",
    )
    figure = parser.add_argument_group("one map of each run: --format png, pdf or svg")
    figure.add_argument(
        "--layer", help="as in the page (the first cross-attention, else the first)"
    )
    figure.add_argument("--head", help="0, 1, …, mean or max (0)")
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    return parser


def _viewed(chosen: argparse.Namespace, directory: Path, checkpoint: str) -> Viewed:
    """A run with its maps of the input.

    Raises:
        UnusableRun: if there are none.
    """
    with open_run(directory, checkpoint):
        from attention_lab.training.checkpoint.checkpoint_io import read
        from attention_lab.training.evaluation import restored, task_name
        from attention_lab.training.input_maps import input_maps

        decoding, task = given(chosen, DECODING), task_name(directory)
        if decoding and task != "sequence_to_sequence":
            raise UnusableRun(f"{directory} is for {task}, which has no beam search")
        if chosen.length is not None and task != "language_model":
            raise UnusableRun(f"--length is for language_model; {directory} is for {task}")
        run = restored(directory, checkpoint, decoding, with_data=False)
        step = int(read(directory / "checkpoints" / f"{checkpoint}.ckpt")["global_step"])
        try:
            maps = input_maps(run.task, chosen.text, step, chosen.target, chosen.length)
        except ValueError as error:
            raise UnusableRun(f"{directory}: {error}") from error
    return Viewed(f"{directory.resolve().name}, step {step}", run, maps)


def _require_same_data(viewed: Sequence[Viewed]) -> None:
    """Raise UnusableRun if the runs have different kinds of data or different vocabularies."""
    first, *others = [each.run.data for each in viewed]
    for other in others:
        if difference := first.difference(other):
            raise UnusableRun(f"the runs are on different data: {difference}")


def _write(chosen: argparse.Namespace, viewed: Sequence[Viewed]) -> int:
    """Write the page or the figure and print its path; returns the exit code."""
    from attention_lab.tracking.attention_map import file_name

    others = (directory.resolve().name[:60] for directory in chosen.runs[1:])
    names = [file_name(chosen.text), *others]
    if chosen.step:
        names = [f"{name}-step-{step}" for name, step in zip(names, chosen.step, strict=True)]
    file: Path = chosen.output
    if file is None:
        file = chosen.runs[0] / "attention/view" / f"{'-vs-'.join(names)}.{chosen.format}"
    try:
        if chosen.format == "html":
            _write_page(chosen.text, viewed, file)
        elif chosen.format == "npz":
            from attention_lab.tracking.attention_arrays import write_arrays

            write_arrays(viewed[0].maps.maps, file)
        else:
            _write_figure(chosen, viewed, file)
    except UnusableRun as error:
        return fail(str(error), 1)
    except OSError as error:  # the directory may belong to another user
        return fail(f"{file} cannot be written: {error.strerror}; use --output FILE", 1)
    echo(str(file))
    return 0


def _write_page(text: str, viewed: Sequence[Viewed], file: Path) -> None:
    from attention_lab.tracking.viewer import encode_map, write_viewer

    maps = [
        encode_map(each, _levels(each)) | {"run": label}
        for label, _, found in viewed
        for each in found.maps
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    outputs = " / ".join(dict.fromkeys(each.maps.output for each in viewed if each.maps.output))
    write_viewer(maps, file, text.strip() + (f" → {outputs}" if outputs else ""))


def _write_figure(chosen: argparse.Namespace, viewed: Sequence[Viewed], file: Path) -> None:
    """Draw one map of each run.

    Raises:
        UnusableRun: if a run has no such layer or head.
    """
    from attention_lab.tracking.attention_figure import write_figure

    panels = [
        (each.label.replace(", step", "\nstep"), _layer_map(chosen, each.maps.maps))
        for each in viewed
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_figure(panels, chosen.head or "0", chosen.format, file)


def _layer_map(chosen: argparse.Namespace, maps: Sequence["AttentionMap"]) -> "AttentionMap":
    """The map of the chosen layer, which must have the chosen head."""
    layers = {each.layer: each for each in maps}
    layer = chosen.layer or next((name for name in layers if "cross_attention" in name), None)
    layer = layer or next(iter(layers))
    if layer not in layers:
        raise UnusableRun(f"--layer {layer}: must be one of {', '.join(layers)}")
    head, heads = chosen.head or "0", len(layers[layer].weights)
    if head not in (*map(str, range(heads)), "mean", "max"):
        raise UnusableRun(f"--head {head}: {layer} has heads 0 to {heads - 1}, mean and max")
    return layers[layer]


def _levels(map: "AttentionMap") -> int:
    """The precision of a map: large ones get less, so that the page stays small."""
    return 65535 if map.weights.numel() <= PRECISE else 255
