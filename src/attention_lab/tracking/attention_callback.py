"""The callback that records attention maps of fixed validation examples at every validation."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from attention_lab.printing import echo
from attention_lab.tracking.attention_image import render
from attention_lab.tracking.attention_map import AttentionMap, attention_maps, file_name
from attention_lab.tracking.attention_summaries import (
    append_rows,
    keep_rows,
    layer_means,
    summarize,
)
from attention_lab.tracking.media import ImageFile, clipped, log_images, log_page
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.record_schema import check_types
from attention_lab.tracking.recorded_attention import RecordedLayer, record_layers
from attention_lab.tracking.untrusted_files import UnreadableRecord
from attention_lab.tracking.viewer import (
    EncodedSummaries,
    encode_map,
    encode_summaries,
    write_viewer,
)

#: The file with the summaries of all heads, beside the maps.
SUMMARIES_FILE = "summaries.csv"


class AttentionMapCallback(Callback):
    """Records the attention on the same few validation examples at every validation.

    The weights are those of a forward pass as in training. If the model predicts a target, it gets
    the earlier tokens of the right target at each position (teacher forcing), not its own output.

    Each map becomes a PNG in ``directory``/step-NNNNNN, and an image in loggers that take images.
    All maps so far become ``directory``/attention.html at every validation; the page is logged at
    the end of training to loggers that take pages. Only the beginning of a long sequence is shown,
    and maps say so. Weights are computed for these examples only, so training is not slowed down.

    Args:
        directory: where the maps are written.
        examples: the number of examples to record.
    """

    def __init__(self, directory: Path, examples: int) -> None:
        self.directory = directory
        self.examples = examples
        self._probe: Any = None
        #: The steps at which maps were recorded.
        self.steps: list[int] = []
        #: The maps of these steps that the viewer has, encoded.
        self.maps: list[dict[str, Any]] = []
        #: The summaries at these steps, encoded.
        self.summaries: dict[int, EncodedSummaries] = {}
        #: The largest error of each layer whose output is not that of its weights.
        self.mismatches: dict[str, float] = {}
        #: Seconds spent in this callback so far.
        self.seconds = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # not declared by Trainer
        if self._probe is None:  # choosing the examples may take as long as recording them
            self._probe = data.probe(self.examples)
        probe = self._probe
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(probe))
        # All ranks record, as each may hold a shard of the model; rank 0 writes them.
        labels = data.position_labels(probe)
        with trainer.precision_plugin.forward_context():
            layers = record_layers(pl_module, batch, for_summaries=True)
        if not trainer.is_global_zero:
            return
        self._check(layers, trainer.global_step)
        maps = attention_maps(pl_module, layers, labels, trainer.global_step)
        log_images(trainer.loggers, self._write_images(maps), trainer.global_step)
        if maps:
            encoded = [encode_map(each) for each in maps]
            self._json_file(trainer.global_step).write_text(json.dumps(encoded), encoding="utf-8")
            self._summarize(trainer, layers, labels, data.alignments(probe))
            self.steps.append(trainer.global_step)
            self.maps.extend(encoded)
            self._write_page()
        self.seconds += time.perf_counter() - started

    def _check(self, layers: Mapping[str, RecordedLayer], step: int) -> None:
        """Warn of each layer whose output in training is not that of the recorded weights."""
        for name, layer in layers.items():
            if layer.error is None or not layer.error.is_mismatch:
                continue
            if name not in self.mismatches:
                echo(
                    f"attention-lab: WARNING: {name}: weights times values differ from the output "
                    f"by {layer.error.size:.2g} of its size at step {step} (rounding: at most "
                    f"{layer.error.limit:.2g}); do not trust its attention maps",
                    error=True,
                )
            self.mismatches[name] = max(layer.error.size, self.mismatches.get(name, 0.0))

    def _summarize(
        self,
        trainer: Trainer,
        layers: Mapping[str, RecordedLayer],
        labels: list[dict[str, list[str]]],
        alignments: Tensor | None,
    ) -> None:
        """Append the summaries to ``summaries.csv``, and log the mean of each layer."""
        step, path = trainer.global_step, self.directory / SUMMARIES_FILE
        found = {name: summarize(layer, labels, alignments) for name, layer in layers.items()}
        if not self.steps:
            path.unlink(missing_ok=True)  # left by a process that was killed before a checkpoint
        numbers = {
            name: {key: values.tolist() for key, values in summaries.items()}
            for name, summaries in found.items()
        }
        append_rows(path, step, numbers)
        self.summaries[step] = encode_summaries(numbers)
        means = {
            f"attention/{name}/{summary}": value
            for name, summaries in found.items()
            for summary, value in layer_means(summaries).items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(means, step=step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds, "mismatches": self.mismatches}

    @rank_zero_only
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = list(state_dict["steps"])
        self.maps = list(self._read_maps())
        self.seconds = state_dict["seconds"]
        self.mismatches = dict(state_dict["mismatches"])
        kept = keep_rows(self.directory / SUMMARIES_FILE, self.steps)
        self.summaries = {step: encode_summaries(each) for step, each in kept.items()}

    def _read_maps(self) -> Iterator[dict[str, Any]]:
        """The recorded maps; one warning if files are damaged or of another format."""
        ignored: list[UnreadableRecord] = []
        for file in map(self._json_file, self.steps):
            try:
                maps = read_json(file, self.directory.parent)
                check_types(file, maps)
            except FileNotFoundError:
                continue
            except UnreadableRecord as error:
                ignored.append(error)
            else:
                yield from maps
        if ignored:
            echo(
                f"attention-lab: WARNING: {ignored[0]}; attention.html leaves out the maps of "
                f"{len(ignored)} of {len(self.steps)} steps",
                error=True,
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        if self.maps and trainer.is_global_zero:
            self._write_page()
            log_page(trainer.loggers, "attention/viewer", self._page, trainer.global_step)
        self.seconds += time.perf_counter() - started

    def _write_images(self, maps: list[AttentionMap]) -> dict[str, ImageFile]:
        """Write a PNG for each map; returns them by key, as attention/LAYER/NUMBER OF EXAMPLE."""
        images: dict[str, ImageFile] = {}
        numbers: Counter[str] = Counter()
        for each in maps:
            folder = self._folder(each.step)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{file_name(each.example)}-{each.layer}.png"
            render(each).save(path, compress_level=3)  # fast, and nearly as small as the default
            numbers[each.layer] += 1
            key = f"attention/{each.layer}/{numbers[each.layer]}"
            images[key] = ImageFile(path, _caption(each))
        return images

    def _write_page(self) -> None:
        write_viewer(self.maps, self._page, self.directory.parent.name, self.summaries)

    @property
    def _page(self) -> Path:
        return self.directory / "attention.html"

    def _folder(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def _json_file(self, step: int) -> Path:
        """The file with the maps of one validation; a resumed run builds the viewer from it."""
        return self._folder(step) / "maps.json"


def _caption(map: AttentionMap) -> str:
    """The input, the step, and the note of a map."""
    return ", ".join(filter(None, [clipped(map.example), f"step {map.step}", map.note]))
