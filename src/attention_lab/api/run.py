"""A recorded run in Python: its config, metrics and result, and its trained network."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from omegaconf import DictConfig, OmegaConf

from attention_lab.api.dataframe import pandas_module
from attention_lab.api.maps import Maps
from attention_lab.api.open_run import UnusableRun, local_run, open_run
from attention_lab.config.compose import WrongCommand
from attention_lab.reports.runs import csv_rows
from attention_lab.tracking.run_directory import read_config
from attention_lab.tracking.run_status import RunStatus, read_status
from attention_lab.tracking.untrusted_files import UnreadableRecord
from attention_lab.training.checkpoint.checkpoint_io import read
from attention_lab.training.checkpoint.rng_state import random_states, restore_random_states
from attention_lab.training.ensemble import make_ensemble
from attention_lab.training.evaluation import evaluate, restored, task_name
from attention_lab.training.input_maps import input_maps
from attention_lab.training.other_test import with_other_test
from attention_lab.training.prediction import Hypothesis, Sampling, TargetPredictor, predictor
from attention_lab.training.tasks.base import Split

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from attention_lab.training.build import BuiltRun

#: The number of texts in a batch of predictions.
BATCH = 64


def load_run(run: str | Path, checkpoint: str = "best") -> "Run":
    """Load a run that is recorded on disk or in W&B.

    Its files may come from a stranger: reading them executes no code.

    Args:
        run: the run's directory, or a W&B artifact, ``ENTITY/PROJECT/NAME:ALIAS``, which is
            downloaded.
        checkpoint: whose weights to load, "best" or "last".

    Raises:
        UnusableRun: if it is not a run, or its records cannot be read.
    """
    return Run(local_run(run), checkpoint)


class Run:
    """A recorded run, which may still be running. Its network is loaded when it is first used.

    Args:
        directory: the run's directory.
        checkpoint: whose weights to load, "best" or "last".

    Raises:
        UnusableRun: if the directory holds no run, or its config cannot be read.
    """

    def __init__(self, directory: Path, checkpoint: str = "best") -> None:
        if checkpoint not in ("best", "last"):
            raise ValueError(f'checkpoint={checkpoint!r}: must be "best" or "last"')
        self.directory, self.checkpoint = directory, checkpoint
        try:
            config = read_config(directory)
        except (FileNotFoundError, NotADirectoryError):
            message = f"{directory} is not a run's directory: it has no config.yaml"
            raise UnusableRun(message) from None
        except UnreadableRecord as error:
            raise UnusableRun(str(error)) from error
        #: The content of ``config.yaml``.
        self.config: DictConfig = OmegaConf.create(config)
        OmegaConf.set_readonly(self.config, True)

    def __repr__(self) -> str:
        return f"<Run {self.directory}: {self.status}>"

    @property
    def status(self) -> str:
        """The status: running, finished, failed, diverged, preempted, pruned or waiting."""
        return self._status().state

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``: test metrics, costs, …; None unless it has finished."""
        return self._status().result

    @property
    def metrics(self) -> "pandas.DataFrame":
        """Every logged metric: a row for each step, a column for each metric.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas = pandas_module()
        header, *rows = [*csv_rows(self.directory / "metrics.csv")] or [["step"]]
        rows = [row for row in rows if len(row) == len(header)]
        frame = pandas.DataFrame(rows, columns=header).apply(pandas.to_numeric, errors="coerce")
        # Some columns are logged in a row of their own at the same step.
        return frame.dropna(subset="step").astype({"step": int}).groupby("step").last()

    @property
    def model(self) -> "nn.Module":
        """The trained network, in evaluation mode."""
        return self._restored.task.eval().model

    @overload
    def predict(
        self, texts: Iterable[str], *, n_best: None = None, **options: Any
    ) -> list[str]: ...

    @overload
    def predict(
        self, texts: Iterable[str], *, n_best: int, **options: Any
    ) -> list[list[Hypothesis]]: ...

    def predict(
        self,
        texts: Iterable[str],
        *,
        num_beams: int | None = None,
        length_penalty: float | None = None,
        n_best: int | None = None,
        ensemble_with: Sequence["Run"] = (),
        **sampling: Any,
    ) -> list[str] | list[list[Hypothesis]]:
        """Predict for texts, as ``attention-lab predict`` does.

        Tokens that are not in the vocabulary are read as ``<unk>``, with a warning.

        Args:
            texts: the inputs.
            num_beams: hypotheses of beam search, for sequence to sequence; 1 is greedy. None means
                that of the config.
            length_penalty: the length penalty α of beam search. None means that of the config.
            n_best: the number of hypotheses for each text, at most ``num_beams``.
            ensemble_with: other runs, whose probabilities are averaged with those of this run at
                each step.
            sampling: for a language model, any of ``length``, ``temperature``, ``top_k``,
                ``top_p`` and ``seed``: see
                :class:`attention_lab.training.prediction.Sampling`.

        Returns:
            A prediction for each text: a target, a class, or the text with its continuation. With
            ``n_best`` a list of :class:`attention_lab.training.prediction.Hypothesis` for each
            text, which have a ``text`` and a ``score``; the best first.

        Raises:
            UnusableRun: if the run has no checkpoint, or it cannot be used.
            ValueError: if the run does not predict from text, a text is too long, or the runs
                differ in their tokens or classes.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of texts: run.predict([text])")
        decoding = {"num_beams": num_beams, "length_penalty": length_penalty}
        given = {k: it for k, it in decoding.items() if it is not None}
        run = self._with_decoding(given, ensemble_with)
        predicts = predictor(run.task, Sampling(**sampling))
        inputs, size = list(texts), 1 if predicts.one_by_one else BATCH
        batches = (inputs[start : start + size] for start in range(0, len(inputs), size))
        if n_best is None:
            predictions = [each for batch in batches for each in predicts.predict(batch)]
            _warn_of_unknown(predicts.unknown)
            return predictions
        if not isinstance(predicts, TargetPredictor):
            raise ValueError("n_best: the run has no beam search")
        best = [each for batch in batches for each in predicts.n_best(batch, n_best)]
        _warn_of_unknown(predicts.unknown)
        return best

    def attention(self, text: str, target: str | None = None) -> Maps:
        """The attention maps of a text, as ``attention-lab view`` shows them.

        Args:
            text: the input.
            target: the output, in place of the generated one; for a language model, what follows
                the text.

        Returns:
            A map for each layer, by the layer's name. A notebook shows them as a page to browse.

        Raises:
            UnusableRun: if the run has no checkpoint, or it cannot be used.
            ValueError: if there are no maps of the text.
        """
        run = self._restored
        maps = input_maps(run.task, text, self._step, target)
        _warn_of_unknown(maps.unknown)
        return Maps(maps, f"{self.directory.resolve().name}, step {self._step}")

    def evaluate(self, split: Split = "test", *overrides: str) -> dict[str, float]:
        """The metrics of the checkpoint on a split; unlike the command, it saves nothing.

        Args:
            split: "validation" or "test".
            overrides: of the test split: ``"data.test=other.tsv"`` or
                ``"data.test_lengths=[64,128]"``. Examples that are too long for the network are
                left out, with a warning.

        Raises:
            UnusableRun: if the run has no checkpoint, or it or the data cannot be used.
            WrongCommand: if an override is invalid; it is a ValueError with a message of one line.
        """
        if overrides and split != "test":
            raise WrongCommand(f"{overrides[0]}: cannot be combined with split={split!r}")
        with self._opened():
            if not overrides:
                return evaluate(restored(self.directory, self.checkpoint), split)
            other = with_other_test(self.directory, self.checkpoint, None, overrides)
            if other.message:
                warnings.warn(other.message, stacklevel=2)
            return evaluate(other.run, split, other.rows)

    def _status(self) -> RunStatus:
        return read_status(self.directory)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """A context for reading the run, which leaves the caller's random generators alone."""
        states = random_states()
        try:
            with open_run(self.directory, self.checkpoint):
                yield
        finally:
            restore_random_states(states)

    @cached_property
    def _restored(self) -> "BuiltRun":
        """The run with its weights and vocabularies, without its dataset."""
        return self._restore()

    def _restore(self, decoding: Mapping[str, Any] | None = None) -> "BuiltRun":
        """The run loaded anew, perhaps with other options of decoding."""
        with self._opened():
            return restored(self.directory, self.checkpoint, dict(decoding or {}), with_data=False)

    @cached_property
    def _step(self) -> int:
        """The number of optimizer steps of the weights."""
        with self._opened():
            file = self.directory / "checkpoints" / f"{self.checkpoint}.ckpt"
            return int(read(file)["global_step"])

    def _with_decoding(
        self, decoding: Mapping[str, Any], ensemble_with: Sequence["Run"]
    ) -> "BuiltRun":
        """The run with other options of decoding, and as an ensemble with other runs.

        Raises:
            ValueError: if its task has no beam search, or the runs cannot be an ensemble.
        """
        if not decoding and not ensemble_with:
            return self._restored
        if decoding and (task := task_name(self.directory)) != "sequence_to_sequence":
            raise ValueError(f"{', '.join(decoding)}: the run is for {task}, without beam search")
        # All anew: the networks of an ensemble are moved to another device without their tasks.
        built = [self._restore(decoding), *(other._restore() for other in ensemble_with)]
        directories = [run.directory for run in (self, *ensemble_with)]
        make_ensemble(directories, [run.task for run in built])
        return built[0]


def _warn_of_unknown(count: int) -> None:
    if count:
        message = f"tokens not in the vocabulary, read as <unk>: {count}"
        warnings.warn(message, stacklevel=3)
