"""Attention maps of fixed validation examples, at every validation."""

import json
import re
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from attention_lab.attention import observe
from attention_lab.data.core.vocabulary import BOS, SPECIALS
from attention_lab.tracking.attention_map import AttentionMap, draw
from attention_lab.tracking.loggers import SafeLogger
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.viewer import encoded, write_viewer

#: Positions that a map shows of a longer sequence.
MOST = 128
#: Where a model predicts a target, it is shown the right one up to there, whatever it predicted.
TEACHER_FORCED = "teacher-forced: the targets are given"


class AttentionMaps(Callback):
    """Records attention on the same few validation examples at every validation.

    Weights are those of a pass as in training: where a model predicts a target, the right target is
    given up to each position (teacher forcing), not what the model itself would have generated.

    Each map becomes a PNG in ``directory``/step-NNNNNN (and an image in W&B); all maps together
    become ``directory``/attention.html. Of long sequences they show the beginning.
    Weights are computed by the eager backend for these examples only, so training pays nothing for
    them.

    Args:
        directory: where the maps go.
        examples: how many examples to look at.
    """

    def __init__(self, directory: Path, examples: int) -> None:
        self.directory = directory
        self.examples = examples
        #: The maps so far, as the page has them.
        self.maps: list[dict[str, Any]] = []
        #: Time spent here so far.
        self.seconds = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        batch = trainer.strategy.batch_to_device(data.probe(self.examples))
        # Every process looks, as each may hold a part of the model; one draws.
        maps = attention_maps(pl_module, batch, data.labels(batch), trainer.global_step)
        if not trainer.is_global_zero:
            return
        pictures = self._draw(maps)
        for logger in trainer.loggers:
            _log_pictures(logger, pictures, trainer.global_step)
        if maps:
            entries = [encoded(each) for each in maps]
            self._file(trainer.global_step).write_text(json.dumps(entries), encoding="utf-8")
            self.maps.extend(entries)
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        return {"steps": sorted({each["step"] for each in self.maps}), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        files = [self._file(step) for step in state_dict["steps"]]
        root = self.directory.parent
        pages = [read_json(file, root) for file in files if file.exists()]
        self.maps = [each for page in pages for each in page]
        self.seconds = state_dict["seconds"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        if self.maps and trainer.is_global_zero:
            write_viewer(self.maps, self.directory / "attention.html", self.directory.parent.name)
        self.seconds += time.perf_counter() - started

    def _draw(self, maps: list[AttentionMap]) -> dict[str, tuple[Path, str]]:
        """The picture of each map and its note, by the name that W&B gives it."""
        pictures = {}
        for each in maps:
            folder = self._folder(each.step)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{_file_name(each.example)}-{each.layer}.png"
            draw(each).save(path, compress_level=3)  # a third faster than 6
            pictures[f"attention/{each.example}/{each.layer}"] = path, each.note
        return pictures

    def _folder(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def _file(self, step: int) -> Path:
        """The maps of one validation, for a run that goes on in another process."""
        return self._folder(step) / "maps.json"


def attention_maps(
    task: Any, batch: Any, labels: list[dict[str, list[str]]], step: int
) -> list[AttentionMap]:
    """The maps of every example of a batch, for every attention layer.

    Args:
        task: what knows how to look at a batch, around a ``model`` made of attention.
        batch: the examples.
        labels: for each example, the names of its positions by sequence.
        step: when, in optimizer steps.
    """
    was_training = task.training
    task.eval()
    with torch.no_grad(), observe(task.model) as calls:
        task.look_at(batch)
    task.train(was_training)
    maps = []
    for layer, (over_rows, over_columns) in task.model.attention_axes().items():
        if not calls[layer]:
            continue  # a mechanism without weights has nothing to show
        predicts = over_rows in ("target", "both") or task.task == "language_model"
        note = TEACHER_FORCED if predicts else ""
        # A decoder that runs step by step calls its layer once for each row of the map.
        weights = torch.cat(calls[layer], dim=2).float().cpu()
        for number, example in enumerate(labels):
            rows = _names(example, over_rows, written=True)[:MOST]
            columns = _names(example, over_columns, written=False)[:MOST]
            unpadded = weights[number, :, : len(rows), : len(columns)]
            name = _example_name(example, number)
            sources = len(example["source"]) if over_rows == over_columns == "both" else MOST
            boundary = sources if sources < MOST else None
            maps.append(AttentionMap(step, name, layer, rows, columns, unpadded, boundary, note))
    return maps


def _names(example: dict[str, list[str]], sequence: str, written: bool) -> list[str]:
    """What the positions of a sequence are called.

    A position of a target writes one token and has read the one before: as a query it goes by what
    it writes, as a key by what it has read.
    """
    if sequence == "both":
        return [*_names(example, "source", written), *_names(example, "target", written)]
    names = [_visible(name) for name in example[sequence]]
    return names if written or sequence != "target" else [SPECIALS[BOS], *names[:-1]]


def _visible(name: str) -> str:
    """A token with signs for line breaks, tabs, and the spaces at its ends."""
    inner = name.strip(" ")
    before = len(name) - len(name.lstrip(" ")) if inner else len(name)
    after = len(name) - before - len(inner)
    return "␣" * before + inner.replace("\n", "↵").replace("\t", "⇥") + "␣" * after


def _example_name(example: dict[str, list[str]], number: int) -> str:
    if "source" not in example:
        return f"example {number + 1}"
    are_characters = all(len(token) == 1 for token in example["source"])
    return ("" if are_characters else " ").join(example["source"])


def _file_name(example: str) -> str:
    """An example's name as part of a file's name: odd characters as %XX, like in a URL."""
    return re.sub(r"[^\w' ]", lambda odd: f"%{ord(odd[0]):02X}", example)[:60].replace(" ", "_")


def _log_pictures(logger: Logger, pictures: dict[str, tuple[Path, str]], step: int) -> None:
    """Log pictures to W&B; other loggers get none."""
    if isinstance(logger, SafeLogger):
        logger.attempt(lambda inner: _log_pictures(inner, pictures, step))
    elif isinstance(logger, WandbLogger):
        import wandb  # only where it is used: it takes most of a second to import

        images = {
            key: wandb.Image(str(path), caption=note or None)
            for key, (path, note) in pictures.items()
        }
        logger.experiment.log(images | {"trainer/global_step": step})
