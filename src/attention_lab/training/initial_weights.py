"""Start a training with the weights of another run: ``model.init_from``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.files.paths import shown
from attention_lab.models.base import Network
from attention_lab.tracking.init_from import check_checkpoint, checkpoint_file
from attention_lab.training.checkpoint.checkpoint_io import Damaged, read

#: The most names of weights that a message lists.
_LISTED = 3


def load_initial_weights(config: RunConfig, model: Network, data: SplitDataModule[Any]) -> str:
    """Load the weights of ``model.init_from`` that have the name and shape of a model's weight.

    Weights whose sizes depend on a vocabulary or on the classes are loaded only if these are the
    same in both runs: the rows of an embedding would otherwise be those of other tokens.

    Args:
        config: the config of the run.
        model: the new model, which is changed.
        data: the run's dataset, loaded.

    Returns:
        One line with the number of loaded weights, and the number and names of the others; ""
        without ``model.init_from``. An extended run continues with its own weights, so it gets "".

    Raises:
        ConfigError: if the checkpoint cannot be read or has changed, or no weight matches.
    """
    section = config.values.get("init_from")
    if not section or "extends" in config.values:
        return ""
    file = checkpoint_file(section["checkpoint"])
    check_checkpoint(file, section["sha256"])
    checkpoint = _read(file)
    own, known = model.state_dict(), _weights(file, checkpoint)
    differing = _of_other_tokens(config, own, data, checkpoint)
    shapes = {name: weight.shape for name, weight in known.items()}
    same_shape = {name for name in own if shapes.get(name) == own[name].shape}
    loaded = {name: known[name] for name in own if name in same_shape - differing}
    left_out = {
        "of another shape": [it for it in own if it in known and it not in same_shape],
        "of other tokens or classes": [it for it in own if it in same_shape & differing],
        "not in the checkpoint": [it for it in own if it not in known],
        "only in the checkpoint": [it for it in known if it not in own],
    }
    parts = [f"{len(names)} {what} ({_some(names)})" for what, names in left_out.items() if names]
    if not loaded:
        raise ConfigError(
            f"model.init_from: no weight of {shown(file)} matches the model: {'; '.join(parts)}"
        )
    model.load_state_dict(loaded, strict=False)
    counted = f"loaded {len(loaded)} of {len(own)} weights from {shown(file)}"
    return "; ".join([f"model.init_from: {counted}", *parts])


def _read(file: Path) -> dict[str, Any]:
    try:
        return read(file)
    except (Damaged, OSError, RuntimeError) as error:
        raise ConfigError(f"model.init_from: {str(error).partition(chr(10))[0]}") from error


def _weights(file: Path, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of the network in a checkpoint, by their names in the network."""
    state, prefix = checkpoint.get("state_dict"), "model."
    if not isinstance(state, Mapping):
        raise ConfigError(f"model.init_from: {shown(file)} holds no 'state_dict'")
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def _of_other_tokens(
    config: RunConfig,
    own: Mapping[str, Tensor],
    data: SplitDataModule[Any],
    checkpoint: Mapping[str, Any],
) -> set[str]:
    """The weights whose sizes depend on a vocabulary or classes that the checkpoint has not."""
    sizes = data.model_arguments()
    here = _meanings(type(data).__qualname__, data.state_dict())
    states = ((k, it) for k, it in checkpoint.items() if isinstance(it, dict) and "longest" in it)
    there = _meanings(*next(states, ("", {})))
    differing: set[str] = set()
    for argument in (it for it in sizes if it in here and here[it] != there[it]):
        with torch.device("meta"):
            larger = config.create("model", **{**sizes, argument: sizes[argument] + 1})
        shapes = {name: weight.shape for name, weight in larger.state_dict().items()}
        differing |= {name for name in own if own[name].shape != shapes[name]}
    return differing


def _meanings(dataset: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the ids of tokens and classes mean, by the argument of the model that is their number.

    For a dataset that saves no vocabulary this is its name: its tokens are always the same.

    Args:
        dataset: the name of the dataset's class.
        state: its ``state_dict``.
    """
    vocabularies = state.get("vocabularies", {})
    return {
        "source_vocab_size": vocabularies.get("source_vocabulary", dataset),
        "target_vocab_size": vocabularies.get("target_vocabulary", dataset),
        "vocab_size": vocabularies.get("text_vocabulary", dataset),
        "num_classes": state.get("classes", dataset),
    }


def _some(names: list[str]) -> str:
    """The first of some names, and the number of the others."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
