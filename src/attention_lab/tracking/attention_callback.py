"""The callback that records attention maps of fixed validation examples at every validation."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from attention_lab.tracking.attention_image import render
from attention_lab.tracking.attention_map import AttentionMap, attention_maps, file_name
from attention_lab.tracking.media import ImageFile, log_images, log_page
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.viewer import encode_map, write_viewer

#: The most characters of an input in a caption.
MAX_CAPTION = 200


class AttentionMapCallback(Callback):
    """Records the attention on the same few validation examples at every validation.

    The weights are those of a forward pass as in training. If the model predicts a target, it gets
    the earlier tokens of the right target at each position (teacher forcing), not its own output.

    Each map becomes a PNG in ``directory``/step-NNNNNN, and an image in loggers that take images.
    All maps together become ``directory``/attention.html, which is logged at the end of training
    to loggers that take pages. Only the beginning of a long sequence is shown. The eager backend
    computes weights for these examples only, so training is not slowed down.

    Args:
        directory: where the maps are written.
        examples: the number of examples to record.
    """

    def __init__(self, directory: Path, examples: int) -> None:
        self.directory = directory
        self.examples = examples
        #: The maps so far, encoded for the viewer.
        self.maps: list[dict[str, Any]] = []
        #: Seconds spent in this callback so far.
        self.seconds = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it, undeclared
        batch = trainer.strategy.batch_to_device(data.probe(self.examples))
        # All ranks compute the maps, as each may hold a shard of the model; rank 0 writes them.
        maps = attention_maps(pl_module, batch, data.position_labels(batch), trainer.global_step)
        if not trainer.is_global_zero:
            return
        log_images(trainer.loggers, self._write_images(maps), trainer.global_step)
        if maps:
            encoded = [encode_map(each) for each in maps]
            self._json_file(trainer.global_step).write_text(json.dumps(encoded), encoding="utf-8")
            self.maps.extend(encoded)
        self.seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        return {"steps": sorted({each["step"] for each in self.maps}), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        files = [self._json_file(step) for step in state_dict["steps"]]
        root = self.directory.parent
        pages = [read_json(file, root) for file in files if file.exists()]
        self.maps = [each for page in pages for each in page]
        self.seconds = state_dict["seconds"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        if self.maps and trainer.is_global_zero:
            page = self.directory / "attention.html"
            write_viewer(self.maps, page, self.directory.parent.name)
            log_page(trainer.loggers, "attention/viewer", page, trainer.global_step)
        self.seconds += time.perf_counter() - started

    def _write_images(self, maps: list[AttentionMap]) -> dict[str, ImageFile]:
        """Write a PNG for each map; returns them by key, as attention/LAYER/NUMBER OF EXAMPLE."""
        images: dict[str, ImageFile] = {}
        numbers: Counter[str] = Counter()
        for each in maps:
            folder = self._folder(each.step)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{file_name(each.example)}-{each.layer}.png"
            render(each).save(path, compress_level=3)  # a third faster than 6
            numbers[each.layer] += 1
            key = f"attention/{each.layer}/{numbers[each.layer]}"
            images[key] = ImageFile(path, _caption(each))
        return images

    def _folder(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def _json_file(self, step: int) -> Path:
        """The file with the maps of one validation; a resumed run builds the viewer from it."""
        return self._folder(step) / "maps.json"


def _caption(map: AttentionMap) -> str:
    """The input, the step, and the note of a map."""
    shown = map.example[:MAX_CAPTION] + "…" * (len(map.example) > MAX_CAPTION)
    return ", ".join(filter(None, [shown, f"step {map.step}", map.note]))
