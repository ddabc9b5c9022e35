"""Tokens per second of training: a whole run beside loops written by hand and other libraries.

All train on the same batches in one process. A run (Lightning, logs, checkpoints) and the loops
take turns every few steps, so that a change of the machine's speed affects all of them.
"""

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from attention_lab.benchmarks.added_callback import added_callback
from attention_lab.benchmarks.implementations import Skipped
from attention_lab.benchmarks.timing import Timing, spread, synchronize
from attention_lab.benchmarks.transformers import OTHERS, Maker, Sizes
from attention_lab.config.compose import composed
from attention_lab.config.resolve import RunSpec
from attention_lab.data.core.batches import LabelledPositions, LabelledSequences, SequencePairs
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.printing import rich_text
from attention_lab.tracking.csv_file import csv_table
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import build
from attention_lab.training.run import train

#: Few, so that the machine's speed is the same for all.
STEPS_PER_TURN = 8
#: More positions than the sequences of an encoder–decoder have.
LONGEST = 64
#: The name of a whole run, and of a loop that trains the same model.
RUN, SAME_MODEL = "attention-lab train", "same model, plain loop"

FEW = ("data.examples=20000", "data.evaluation_examples=100")
REVERSE = ("data=reverse", "data.batch_size=64", *FEW)
#: The overrides of each training. ``character`` and ``character_gpu`` have the sizes of nanoGPT's
#: CPU and GPU settings.
TRAININGS = {
    "character": (
        *("data=text", "data.length=64", "data.batch_size=12", "model=decoder"),
        *("model.num_layers=4", "model.d_model=128", "attention=multi_head"),
        "attention.num_heads=4",
    ),
    "character_gpu": (
        *("data=text", "data.length=256", "data.batch_size=64", "model=decoder"),
        *("model.num_layers=6", "model.d_model=384", "attention=multi_head"),
        "attention.num_heads=6",
    ),
    "encoder_decoder": ("model=encoder_decoder", "attention=multi_head", *REVERSE),
    "encoder_classifier": (
        *("model=encoder_classifier", "attention=multi_head", "data=listops"),
        *("data.batch_size=32", *FEW),
    ),
    "prefix_decoder": ("model=prefix_decoder", "attention=multi_head", *REVERSE),
    "recurrent_encoder_decoder": (
        *("model=recurrent_encoder_decoder", "attention=additive", *REVERSE),
    ),
}


@dataclass(frozen=True)
class TrainingSetting:
    """How each training of the benchmark runs."""

    steps: int
    device: str = "cpu"
    precision: str = "32-true"  #: of the run and of the loops, "32-true" or "bf16-mixed"
    compiled: bool = False

    def default_trainings(self) -> list[str]:
        """All but one that takes minutes on a CPU."""
        return [name for name in TRAININGS if name != "character_gpu" or self.device != "cpu"]


class Turn(NamedTuple):
    """A few steps of one contestant."""

    seconds: float
    tokens: int
    #: Seconds of it that it waited for batches; 0 for a run, where they are not measured.
    loading: float = 0.0


class Speed(NamedTuple):
    """The figures of one contestant."""

    training: str
    name: str
    parameters: int
    #: Tokens per second: median and quartiles.
    tokens_per_second: Timing
    #: How many times as many tokens per second a run has: the median over the turns.
    ratio: float
    #: Median share of the time in which it waited for batches.
    loading: float


class Turns(Callback):
    """Runs plain loops for a turn every few steps of a run, and records the times of all."""

    def __init__(self, loops: Mapping[str, Iterator[Turn]], device: str) -> None:
        self.loops, self.device = loops, device
        self.turns: dict[str, list[Turn]] = {name: [] for name in (RUN, *loops)}
        self._resumed: float | None = None
        self._tokens = 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % STEPS_PER_TURN:
            return
        if self._resumed is None:
            for loop in self.loops.values():
                next(loop)  # builds its model and warms up
        else:
            synchronize(self.device)
            seconds = time.perf_counter() - self._resumed
            self.turns[RUN].append(Turn(seconds, self._tokens))
            for name, loop in self.loops.items():
                self.turns[name].append(self._turn(loop))
        self._tokens, self._resumed = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._tokens += int(batch.lengths().sum())

    def _turn(self, loop: Iterator[Turn]) -> Turn:
        started = time.perf_counter()
        steps = list(itertools.islice(loop, STEPS_PER_TURN))
        synchronize(self.device)
        seconds = time.perf_counter() - started
        return Turn(seconds, sum(it.tokens for it in steps), sum(it.loading for it in steps))


def benchmark(
    name: str, setting: TrainingSetting, progress: Callable[[str], None]
) -> tuple[list[Speed], list[Skipped]]:
    """Measure one of ``TRAININGS``; also returns the libraries that are not installed.

    Args:
        name: its name.
        setting: how the run and each loop train.
        progress: called with a line before it starts.
    """
    device = setting.device
    with tempfile.TemporaryDirectory() as directory:
        config = _config(name, setting, Path(directory))
        models, skipped = _models(name, config)
        progress(f"{name}: {setting.steps} steps of {RUN}, {', '.join(models)} …")
        if setting.compiled:
            for model in models.values():
                model.compile()
        loops = {
            other: plain_loop(config, model.to(device), device) for other, model in models.items()
        }
        turns = Turns(loops, device)
        with added_callback(turns), redirect_stdout(StringIO()):
            train(RunSpec(resolve(config), Path(directory) / "run"))
    sizes = {other: sum(p.numel() for p in model.parameters()) for other, model in models.items()}
    sizes[RUN] = sizes[SAME_MODEL]
    return list(_speeds(name, turns.turns, sizes)), skipped


def _models(name: str, config: Mapping[str, Any]) -> tuple[dict[str, nn.Module], list[Skipped]]:
    """The framework's own model and others of the same size; and libraries not installed."""
    makers: dict[str, Maker | None] = {SAME_MODEL: None}
    makers |= OTHERS["decoder"] if name.startswith("character") else OTHERS.get(name, {})
    made = {other: _model(config, maker) for other, maker in makers.items()}
    skipped = [each for each in made.values() if isinstance(each, Skipped)]
    return {key: it for key, it in made.items() if not isinstance(it, Skipped)}, skipped


def _speeds(
    training: str, turns: Mapping[str, Sequence[Turn]], sizes: Mapping[str, int]
) -> Iterator[Speed]:
    ours = [turn.tokens / turn.seconds for turn in turns[RUN]]
    for name, each in turns.items():
        rates = [turn.tokens / turn.seconds for turn in each]
        ratio = statistics.median(a / b for a, b in zip(ours, rates, strict=True))
        loading = statistics.median(turn.loading / turn.seconds for turn in each)
        yield Speed(training, name, sizes[name], spread(rates), ratio, loading)


def _config(name: str, setting: TrainingSetting, directory: Path) -> dict[str, Any]:
    steps, trainer = setting.steps, "gpu" if setting.device == "cuda" else "cpu"
    overrides = [*TRAININGS[name], f"trainer.max_steps={steps}", "logger=csv"]
    overrides += [f"trainer={trainer}", f"trainer.precision={setting.precision}"]
    overrides.append(f"trainer.compile={str(setting.compiled).lower()}")
    # Validation would count as training.
    overrides += [f"trainer.val_check_interval={steps}", "model.dropout=0"]
    if "data=text" in overrides:
        text = directory / "text.txt"
        text.write_text("".join(random.Random(0).choices("etaoin shrdlu,.\n", k=400_000)))
        overrides.append(f"data.path={text}")
    return composed(overrides)


def _model(config: Mapping[str, Any], maker: Maker | None) -> nn.Module | Skipped:
    """The framework's own model, or another one of the same sizes."""
    run = build(resolve(config))
    if maker is None:
        return run.task.model
    given, model = run.data.model_arguments(), config["model"]
    vocab_size = given.get("vocab_size") or given["target_vocab_size"]
    layers = model.get("num_layers") or model["num_encoder_layers"]
    heads = config["attention"]["num_heads"]
    longest = given.get("max_length") or LONGEST
    source = given.get("source_vocab_size", 0)
    return maker(Sizes(model["d_model"], heads, layers, vocab_size, longest, source))


def plain_loop(
    config: Mapping[str, Any], model: nn.Module, device: str, optimizer: Optimizer | None = None
) -> Iterator[Turn]:
    """A training loop written by hand; yields after each step.

    Args:
        config: the run whose batches, loss and schedule it has.
        model: the network to train.
        device: "cpu" or "cuda".
        optimizer: None means torch's AdamW.
    """
    run = build(resolve(config))
    model.train()
    if optimizer is None:
        betas = tuple(config["optimizer"]["betas"])
        optimizer = torch.optim.AdamW(model.parameters(), config["optimizer"]["lr"], betas)
    scheduler = run.task.optimization.schedule.scheduler(optimizer, config["trainer"]["max_steps"])
    batches, is_mixed = run.data.train_dataloader(), config["trainer"]["precision"] == "bf16-mixed"
    for epoch in itertools.count():
        assert isinstance(batches.sampler, BucketBatchSampler)
        batches.sampler.set_epoch(epoch)
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                break
            loading = time.perf_counter() - started
            optimizer.zero_grad()
            smoothing = config["task"].get("label_smoothing", 0.0)
            with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
                loss = loss_of(model, _moved(batch, device), smoothing)
            loss.backward()
            clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
            optimizer.step()
            scheduler.step()
            yield Turn(0.0, int(batch.lengths().sum()), loading)


def _moved(batch: Any, device: str) -> Any:
    return type(batch)(*(x if x is None else x.to(device) for x in batch))


def loss_of(model: nn.Module, batch: Any, label_smoothing: float) -> Tensor:
    """The training loss of a batch, written by hand."""
    if isinstance(batch, SequencePairs):
        logits, labels = model(batch.source, batch.target[:, :-1]), batch.target[:, 1:]
        return F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=0, label_smoothing=label_smoothing
        )
    if isinstance(batch, LabelledPositions):
        return F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.labels.flatten())
    assert isinstance(batch, LabelledSequences)
    return F.cross_entropy(model(batch.inputs), batch.labels)


def table(speeds: Sequence[Speed]) -> Table:
    """The figures as a table."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    made.add_column("", overflow="fold")
    for title in ("params", "tokens/s [quartiles]", "run is", "loading"):
        made.add_column(title, justify="right")
    for training, group in itertools.groupby(speeds, lambda it: it.training):
        made.add_section()
        made.add_row(rich_text(training, style="bold"))
        for it in group:
            median, low, high = (f"{value:,.0f}" for value in it.tokens_per_second)
            is_run = it.name == RUN
            cells = (
                f"{it.parameters:,}",
                f"{median} [{low}, {high}]",
                "" if is_run else f"{it.ratio:.3f} ×",
                "" if is_run else f"{it.loading:.1%}",
            )
            made.add_row(*map(rich_text, (f"  {it.name}", *cells)))
    return made


def csv_text(speeds: Sequence[Speed], device: str) -> str:
    """The figures as the text of a CSV file; speeds are medians and quartiles."""
    columns = (
        *("training", "name", "device", "parameters"),
        *("tokens_per_second", "tokens_per_second_low", "tokens_per_second_high"),
        *("run_relative_to_it", "loading_share"),
    )
    rows = (
        (it.training, it.name, device, it.parameters, *it.tokens_per_second, it.ratio, it.loading)
        for it in speeds
    )
    return csv_table(columns, rows)
