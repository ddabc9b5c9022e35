"""A finished run with another test split: other data, or other lengths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import Tensor

from attention_lab.config.components import Config, ConfigError, named_parameters
from attention_lab.config.compose import WrongCommand
from attention_lab.config.data_files import check_unchanged, with_hashes
from attention_lab.config.resolve import RunConfig, resolve_recorded
from attention_lab.config.suggestions import explain
from attention_lab.models.base import Network
from attention_lab.printing import counted
from attention_lab.training.build import BuiltRun, check_lengths, load_data
from attention_lab.training.evaluation import recorded_config, restored


class OtherTest(NamedTuple):
    """A finished run with another test split."""

    run: BuiltRun
    #: (R,) int64, the rows of the test split that are not too long for the network; None means all.
    rows: Tensor | None
    #: Why the other rows are too long; "" if there are none.
    too_long: str
    #: The SHA-256 of the files of the test split, by the data's argument.
    data_files: Mapping[str, Any]

    @property
    def number_of_examples(self) -> int:
        """The number of test examples, with those that are too long."""
        return len(self.run.data.split("test").lengths())

    @property
    def number_left_out(self) -> int:
        """The number of test examples that are too long for the network."""
        return 0 if self.rows is None else self.number_of_examples - len(self.rows)

    @property
    def message(self) -> str:
        """How many examples are too long, and why; "" if there are none."""
        if not self.number_left_out:
            return ""
        every = counted(self.number_of_examples, "test example")
        return f"{self.number_left_out} of {every} are too long and are left out: {self.too_long}"


def with_other_test(
    directory: Path, checkpoint: str, decoding: Config | None, overrides: Sequence[str]
) -> OtherTest:
    """Build a finished run with another test split; training split and vocabularies are the same.

    Args:
        directory: the run directory.
        checkpoint: "best" or "last".
        decoding: options of the task that replace those of the config, such as ``num_beams``.
        overrides: of arguments of the data that concern the test split alone: those whose names
            begin with "test", as in "data.test=other.tsv" and "data.test_lengths=[64,128]".

    Raises:
        WrongCommand: if an override is invalid, or concerns the training split too; or if the new
            data cannot be loaded or no example of it fits the network.
        FileNotFoundError, Damaged, ConfigError, RuntimeError: as
            :func:`attention_lab.training.evaluation.restored`.
    """
    run = restored(directory, checkpoint, decoding, with_data=False)
    config = recorded_config(directory, decoding)
    arguments = _arguments(resolve_recorded(config), overrides)
    try:
        other = _with_test_arguments(config, arguments)
        data = load_data(other, run.data.shares)
    except ConfigError as error:
        raise WrongCommand(str(error)) from error
    try:
        data.load_state_dict(run.data.state_dict())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    lengths = data.split("test").lengths()
    fits, too_long = _fitting(run.task.model, lengths)
    if not fits.any():
        raise WrongCommand(f"all {len(fits):,} test examples are too long: {too_long}")
    if too_long:
        other = _with_generated_length(other, int(lengths[fits].amax(0)[-1]) - 1)
    with other.errors():
        parts = {"model": run.task.model, "data": data, "optimization": run.task.optimization}
        task = other.create("task", **parts)
    rows = fits.nonzero().flatten() if too_long else None
    files = {name: other.record.get("data_files", {}).get(name) for name in arguments}
    files = {name: digest for name, digest in files.items() if digest}
    return OtherTest(BuiltRun(data, task, run.trainer_options), rows, too_long, files)


def _arguments(config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The values of overrides by the data's argument; WrongCommand if one is not allowed."""
    kind: type = config.component("data")
    allowed = [f"data.{name}" for name in named_parameters(kind) if name.startswith("test")]
    values = {}
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            raise WrongCommand(explain(error, overrides)) from None
        key = override.key_or_group
        if key not in allowed:
            known = " and ".join(allowed) or "nothing"
            raise WrongCommand(
                f"{text}: evaluate can change the test split only, for {kind.__name__} {known}; "
                "other keys need a new run"
            )
        if override.is_sweep_override() or not text.startswith(f"{key}="):
            raise WrongCommand(f"{text}: must be {key}=VALUE, with one value")
        values[key.removeprefix("data.")] = override.value()
    return values


def _with_test_arguments(config: Config, arguments: Mapping[str, Any]) -> RunConfig:
    """The config with other arguments of the test split, whose files are hashed.

    Raises:
        ConfigError: if a value is invalid, or a training file has changed.
    """
    recorded = config.get("data_files", {})
    kept = {name: hashes for name, hashes in recorded.items() if name not in arguments}
    changed = {**config, "data": {**config["data"], **arguments}, "data_files": kept}
    checked = resolve_recorded(changed)  # before files are read
    with checked.errors():
        other = resolve_recorded(with_hashes(changed))
        check_unchanged(other.values)
    return other


def _with_generated_length(config: RunConfig, longest: int) -> RunConfig:
    """The config with the most tokens to generate, if that is the length of the longest target."""
    task = config.record["task"]
    if task.get("max_length", longest) is not None:
        return config
    return RunConfig(
        {**config.record, "task": {**task, "max_length": longest}}, reads_environment=False
    )


def _fitting(model: Network, lengths: Tensor) -> tuple[Tensor, str]:
    """Which examples are not too long for a network, (N,) bool, and why the others are.

    Args:
        model: the network.
        lengths: (N, sequences), the lengths of each example's sequences, the input's first.
    """
    kinds, kind_of = lengths.unique(dim=0, return_inverse=True)
    fits, problem = _fit(model, kinds, generated=0)
    if fits.all() or not fits.any():
        return fits[kind_of], problem
    # All examples are generated up to the longest target of those that fit.
    fits, problem = _fit(model, kinds, int(kinds[fits].amax(0)[-1]))
    return fits[kind_of], problem


def _fit(model: Network, kinds: Tensor, generated: int) -> tuple[Tensor, str]:
    """Which lengths a network supports, and why it does not support the last of the others."""
    fits, problem = torch.ones(len(kinds), dtype=torch.bool), ""
    for row, kind in enumerate(kinds.tolist()):
        try:
            check_lengths(model, kind, generated)
        except ValueError as error:
            fits[row], problem = False, str(error)
    return fits, problem
