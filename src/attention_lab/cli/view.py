"""`attention-lab view`: write a page with the attention maps of an input, and print its path.

Sequence to sequence: the maps of the generated output, or of a --target. Language model: of the
text, followed by a --target. Classification: of the text. Two runs are shown side by side, with
their difference.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attention_lab.cli import fail, warn
from attention_lab.cli.parser import Parser, directory_path
from attention_lab.cli.run_argument import (
    DECODING,
    UnusableRun,
    add_decoding,
    given,
    local_run,
    open_run,
)
from attention_lab.printing import echo

#: The most weights of a map that are kept with four digits.
PRECISE = 2**20

if TYPE_CHECKING:
    from attention_lab.tracking.attention_map import AttentionMap
    from attention_lab.training.build import BuiltRun
    from attention_lab.training.input_maps import InputMaps


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
    chosen.runs = [directory_path(each) for each in runs]
    checkpoints = chosen.checkpoint or ["best"]
    if len(checkpoints) > len(runs):
        parser.error("more values of --checkpoint than runs")
    checkpoints = checkpoints + checkpoints[-1:] * (len(runs) - len(checkpoints))
    try:
        chosen.runs = [local_run(each) for each in chosen.runs]
        viewed = [_viewed(chosen, *each) for each in zip(chosen.runs, checkpoints, strict=True)]
        _require_same_data(viewed)
    except UnusableRun as error:
        return fail(str(error), 1)
    if unknown := viewed[0].maps.unknown:
        warn(f"tokens not in the vocabulary, read as <unk>: {unknown}")
    return _write(chosen, viewed)


def _parser() -> Parser:
    parser = Parser("view", __doc__, "attention-lab view RUN [RUN] INPUT [options]")
    parser.add_argument("inputs", nargs="+", metavar="RUN… INPUT", help="one or two runs, a text")
    parser.add_argument(
        "--checkpoint",
        action="append",
        choices=("best", "last"),
        help="best (the default) or last; once for each run",
    )
    parser.add_argument("--target", help="the output, in place of the generated one")
    parser.add_argument("--output", type=Path, help="the page (RUN/attention/view/INPUT.html)")
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

        decoding = given(chosen, DECODING)
        if decoding and (task := task_name(directory)) != "sequence_to_sequence":
            raise UnusableRun(f"{directory} is for {task}, which has no beam search")
        run = restored(directory, checkpoint, decoding, with_data=False)
        step = int(read(directory / "checkpoints" / f"{checkpoint}.ckpt")["global_step"])
        try:
            maps = input_maps(run.task, chosen.text, step, chosen.target)
        except ValueError as error:
            raise UnusableRun(f"{directory}: {error}") from error
    return Viewed(f"{directory.resolve().name}, step {step}", run, maps)


def _require_same_data(viewed: Sequence[Viewed]) -> None:
    """Raise UnusableRun if tokens mean different things to the runs."""
    first, *others = [each.run.data for each in viewed]
    for other in others:
        kinds = [type(data).__name__ for data in (first, other)]
        if kinds[0] != kinds[1]:
            raise UnusableRun(f"the runs are on different data: {kinds[0]} and {kinds[1]}")
        for name in first.vocabularies:
            if getattr(first, name).state_dict() != getattr(other, name).state_dict():
                kind = name.replace("_", " ")
                raise UnusableRun(f"the runs are on different data: their {kind} differs")


def _write(chosen: argparse.Namespace, viewed: Sequence[Viewed]) -> int:
    """Write the page and print its path; returns the exit code."""
    from attention_lab.tracking.attention_map import file_name
    from attention_lab.tracking.viewer import encode_map, write_viewer

    names = [chosen.text, *(directory.resolve().name for directory in chosen.runs[1:])]
    page: Path = chosen.output
    if page is None:
        page = chosen.runs[0] / "attention" / "view" / f"{'-vs-'.join(map(file_name, names))}.html"
    maps = [
        encode_map(each, _levels(each)) | {"run": label}
        for label, _, found in viewed
        for each in found.maps
    ]
    outputs = " / ".join(dict.fromkeys(each.maps.output for each in viewed if each.maps.output))
    title = chosen.text.strip() + (f" → {outputs}" if outputs else "")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_viewer(maps, page, title)
    except OSError as error:  # the directory may belong to another user
        return fail(f"{page} cannot be written: {error.strerror}; use --output FILE", 1)
    echo(str(page))
    return 0


def _levels(map: "AttentionMap") -> int:
    """The precision of a map: large ones get less, so that the page stays small."""
    return 65535 if map.weights.numel() <= PRECISE else 255
