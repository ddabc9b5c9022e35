"""Predicting a line of text for each line of text, with a trained network."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple, TypeVar

import torch

from attention_lab.data.core.batches import pad
from attention_lab.data.core.vocabulary import SPECIALS, UNK, TextVocabulary
from attention_lab.data.files.encodings import not_text
from attention_lab.models.decoding import available_positions, sample
from attention_lab.printing import counted
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.classification import Classification, LabelledText
from attention_lab.training.tasks.language_model import LanguageModel
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence

#: Tokens that a language model generates by default, if it has positions for them.
_DEFAULT_LENGTH = 100

_NOT_TEXT = "{} is not a text dataset, so its models cannot predict from lines of text"


PredictionT = TypeVar("PredictionT")


class Hypothesis(NamedTuple):
    """A predicted target of an n-best list, and its score in beam search."""

    text: str
    score: float


class CannotPredict(ValueError):
    """A run cannot predict from text. The message is one line, for the user."""


class BadLine(ValueError):
    """A line of the input is invalid. The message has its number."""


@dataclass(frozen=True)
class Sampling:
    """Sampling from a language model: the options of :func:`attention_lab.models.decoding.sample`.

    ``length=None`` means 100 tokens, or as many as the model has positions for.
    """

    length: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


class Predictor(ABC):
    """Predicts a line of text for each line of text.

    Args:
        vocabulary: the vocabulary of the inputs.
    """

    #: Whether each text must be a batch by itself.
    one_by_one: ClassVar[bool] = False
    #: Whether white space around a text is kept. In training files it is stripped.
    keeps_edges: ClassVar[bool] = False

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self.vocabulary = vocabulary
        #: Number of tokens so far that are not in the vocabulary.
        self.unknown = 0

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The predictions for a batch of texts; an empty text has an empty prediction.

        Raises:
            ValueError: if a text is too long for the network.
        """
        return self._for_each(texts, self._predict, "")

    def _for_each(
        self,
        texts: Sequence[str],
        predict: Callable[[Sequence[str], Sequence[list[int]]], list[PredictionT]],
        empty: PredictionT,
    ) -> list[PredictionT]:
        """What a function predicts for the texts that are not empty; ``empty`` for the others."""
        if not self.keeps_edges:
            texts = [text.strip() for text in texts]
        ids = [self.vocabulary.encode(text) for text in texts]
        nonempty = [(text, row) for text, row in zip(texts, ids, strict=True) if row]
        predictions = iter(predict(*zip(*nonempty, strict=True)) if nonempty else [])
        found = [next(predictions) if row else empty for row in ids]
        self.unknown += sum(row.count(UNK) for row in ids)
        return found

    @abstractmethod
    def _predict(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        """The predictions for texts, given with their token ids; no text is empty."""


class TargetPredictor(Predictor):
    """Predicts the target of a source.

    Args:
        task: the trained task, in evaluation mode.
    """

    def __init__(self, task: SequenceToSequence) -> None:
        super().__init__(task.data.source_vocabulary)
        self.task = task

    def _predict(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        generated = self.task.generate(pad(ids).to(self.task.device))
        return [self.task.data.target_vocabulary.decode(row) for row in generated]

    def n_best(self, texts: Sequence[str], number: int) -> list[list[Hypothesis]]:
        """The best targets of each text, the best first; an empty text has one, with score 0.

        Raises:
            ValueError: if ``number`` is not from 1 to the number of beams, or a text is too long.
        """
        decode = self.task.data.target_vocabulary.decode

        def predict(_: Sequence[str], ids: Sequence[list[int]]) -> list[list[Hypothesis]]:
            found = self.task.generate_n_best(pad(ids).to(self.task.device), number)
            return [[Hypothesis(decode(row), score) for row, score in each] for each in found]

        return self._for_each(texts, predict, [Hypothesis("", 0.0)])


class ContinuationPredictor(Predictor):
    """Predicts the continuation of a prompt, and returns it after the prompt.

    Args:
        task: the trained task, in evaluation mode.
        sampling: the options of sampling. All lines draw from one generator with this seed.
    """

    one_by_one = True  # prompts differ in length, and no padding may precede the continuation
    keeps_edges = True  # a prompt may end with a space

    def __init__(self, task: LanguageModel, sampling: Sampling) -> None:
        vocabulary = task.data.text_vocabulary
        if vocabulary is None:
            raise CannotPredict(_NOT_TEXT.format(type(task.data).__name__))
        super().__init__(vocabulary)
        self.task, self.sampling = task, sampling
        self.generator = torch.Generator(task.device).manual_seed(sampling.seed)

    def _predict(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        return [
            text + self.continuation(prompt, self.generate(prompt))
            for text, prompt in zip(texts, ids, strict=True)
        ]

    def generate(self, prompt: list[int]) -> list[int]:
        """The ids of the tokens after a prompt.

        Raises:
            ValueError: if the model has too few positions.
        """
        generated = sample(
            self.task.model,
            torch.tensor([prompt], device=self.task.device),
            self._length(len(prompt)),
            self.sampling.temperature,
            self.sampling.top_k,
            self.sampling.top_p,
            self.generator,
            suppress_tokens=range(len(SPECIALS)),  # not text; decoding would stop at </s>
        )
        ids: list[int] = generated[0].tolist()
        return ids

    def continuation(self, prompt: list[int], generated: list[int]) -> str:
        """Generated tokens as text, starting with the separator between words, if any."""
        whole = self.vocabulary.decode([*prompt, *generated])
        return whole.removeprefix(self.vocabulary.decode(prompt))

    def _length(self, prompt: int) -> int:
        """The number of tokens to generate after a prompt of ``prompt`` tokens.

        Raises:
            ValueError: if the model has too few positions.
        """
        wanted = self.sampling.length or _DEFAULT_LENGTH
        needed = prompt + wanted - 1  # the last token is not an input
        has = available_positions(self.task.model, needed)
        if prompt > has:
            raise ValueError(f"a prompt of {prompt} tokens, but the model has {has} positions")
        fits = has - prompt + 1
        if self.sampling.length is not None and fits < wanted:
            raise ValueError(
                f"a prompt of {counted(prompt, 'token')} and --length {wanted} need {needed} "
                f"positions, the model has {has}: use --length {fits}"
            )
        return fits


class ClassPredictor(Predictor):
    """Predicts the name of a text's class.

    Args:
        task: the trained task, in evaluation mode.
    """

    def __init__(self, task: Classification) -> None:
        if not isinstance(task.data, LabelledText):
            raise CannotPredict(_NOT_TEXT.format(type(task.data).__name__))
        super().__init__(task.data.text_vocabulary)
        self.task, self.classes = task, task.data.classes

    @torch.no_grad()
    def _predict(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        logits = self.task.model(pad(ids).to(self.task.device))
        return [self.classes[label] for label in logits.argmax(-1).tolist()]


def predictor(task: AttentionTask, sampling: Sampling) -> Predictor:
    """The predictor for a task; its network is moved to the GPU if there is one.

    Raises:
        CannotPredict: if the data is not text, or the task is not one of this package.
    """
    task.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(task, SequenceToSequence):
        return TargetPredictor(task)
    if isinstance(task, LanguageModel):
        return ContinuationPredictor(task, sampling)
    if isinstance(task, Classification):
        return ClassPredictor(task)
    raise CannotPredict(f"{type(task).__name__} is not a task of this package: it has no predictor")


def predict_lines(
    predictor: Predictor, lines: Iterable[bytes], batch: int, n_best: int | None = None
) -> Iterator[list[str]]:
    """Yield the predictions for lines, in order and in batches.

    Args:
        predictor: the predictor.
        lines: the inputs, in UTF-8.
        batch: lines in a batch; ignored if the predictor is ``one_by_one``.
        n_best: the number of hypotheses for each line, for targets only: each becomes a line with
            the number of the input, the score and the prediction, between tabs.

    Raises:
        BadLine: if a line is not UTF-8 or too long for the network, after yielding the predictions
            for the lines before it.
    """
    numbered = enumerate(lines, start=1)
    while taken := list(islice(numbered, 1 if predictor.one_by_one else batch)):
        texts, error = _decoded(taken)
        yield from _predictions(predictor, texts, n_best)
        if error is not None:
            raise error


def _decoded(lines: Iterable[tuple[int, bytes]]) -> tuple[list[tuple[int, str]], BadLine | None]:
    """The numbered texts before the first line that is not text, and the error of that line."""
    texts: list[tuple[int, str]] = []
    for number, line in lines:
        if number == 1:
            if problem := not_text(line, is_file=False):
                return texts, BadLine(f"the input {problem}")
            line = line.removeprefix(codecs.BOM_UTF8)  # dropped in training files, too
        try:
            texts.append((number, line.decode().removesuffix("\n").removesuffix("\r")))
        except UnicodeDecodeError as error:
            return texts, BadLine(f"line {number} is not UTF-8: byte {error.start + 1} is invalid")
    return texts, None


def _predictions(
    predictor: Predictor, texts: Sequence[tuple[int, str]], n_best: int | None
) -> Iterator[list[str]]:
    """Yield the predictions for a batch, or for the lines before the first bad one."""
    try:
        yield _lines(predictor, texts, n_best)
    except ValueError:
        for number, text in texts:
            try:
                yield _lines(predictor, [(number, text)], n_best)
            except ValueError as error:
                problem, _, advice = str(error).partition("; ")
                # The advice is about training another model.
                works = "; use shorter lines" if advice else ""
                raise BadLine(f"line {number}: {problem}{works}") from error


def _lines(predictor: Predictor, texts: Sequence[tuple[int, str]], n_best: int | None) -> list[str]:
    """The lines of the predictions for numbered texts."""
    inputs = [text for _, text in texts]
    if n_best is None:
        return [_escaped(text) for text in predictor.predict(inputs)]
    assert isinstance(predictor, TargetPredictor)
    return [
        f"{number}\t{score:.4f}\t{_escaped(text)}"
        for (number, _), best in zip(texts, predictor.n_best(inputs, n_best), strict=True)
        for text, score in best
    ]


def _escaped(text: str) -> str:
    """A prediction with line breaks as escapes, for models of text with LF or CRLF."""
    return text.replace("\n", "\\n").replace("\r", "\\r")
