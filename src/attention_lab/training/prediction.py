"""Answering lines of text with a trained network."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Protocol, runtime_checkable

import torch

from attention_lab.data.core.batches import pad
from attention_lab.data.core.vocabulary import SPECIALS, UNK, TextVocabulary
from attention_lab.models.decoding import available_positions, sample
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.classification import Classification
from attention_lab.training.tasks.language_model import LanguageModel
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence

#: How many tokens a language model writes if nobody says and it has positions for so many.
_USUAL_LENGTH = 100

_NOT_TEXT = "{} is not made of text; there is nothing to read"


class CannotPredict(ValueError):
    """A run cannot answer text. The message is one line, for the user."""


class BadLine(ValueError):
    """A line of the input cannot be answered. The message names it."""


@dataclass(frozen=True)
class Sampling:
    """How a language model goes on: see :func:`attention_lab.models.decoding.sample`.

    Without a length there are 100 tokens, or as many as it has positions for.
    """

    length: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


class Predictor(ABC):
    """Answers texts of one line each with one line each.

    Args:
        vocabulary: how texts are read.
    """

    #: Whether texts must be answered one by one.
    one_by_one: ClassVar[bool] = False
    #: Whether white space around a text belongs to it. In training files it does not.
    keeps_edges: ClassVar[bool] = False

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self.vocabulary = vocabulary
        #: Tokens so far that the vocabulary does not have.
        self.unknown = 0

    def answer(self, texts: Sequence[str]) -> list[str]:
        """The answers to some texts; to one without any token it is empty.

        Raises:
            ValueError: if the network cannot read one of them.
        """
        if not self.keeps_edges:
            texts = [text.strip() for text in texts]
        ids = [self.vocabulary.encode(text) for text in texts]
        asked = [(text, row) for text, row in zip(texts, ids, strict=True) if row]
        answers = iter(self._answers(*zip(*asked, strict=True)) if asked else [])
        lines = [next(answers).replace("\n", "\\n") if row else "" for row in ids]
        self.unknown += sum(row.count(UNK) for row in ids)
        return lines

    @abstractmethod
    def _answers(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        """The answers to texts and their token ids, of which each has some."""


class Writer(Predictor):
    """Answers a source with its target.

    Args:
        task: what was trained, in evaluation mode.
    """

    def __init__(self, task: SequenceToSequence) -> None:
        super().__init__(task.data.source_vocabulary)
        self.task = task

    def _answers(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        written = self.task.generate(pad(ids).to(self.task.device))
        return [self.task.data.target_vocabulary.decode(row) for row in written]


class Continuer(Predictor):
    """Answers a prompt with the prompt and how it goes on.

    Args:
        task: what was trained, in evaluation mode.
        sampling: how to go on. The seed is that of the first line; others follow.
    """

    one_by_one = True  # prompts differ in length, and padding has no place before what follows
    keeps_edges = True  # a prompt may end with a space

    def __init__(self, task: LanguageModel, sampling: Sampling) -> None:
        vocabulary = task.data.text_vocabulary
        if vocabulary is None:
            raise CannotPredict(_NOT_TEXT.format(type(task.data).__name__))
        super().__init__(vocabulary)
        self.model, self.device, self.sampling = task.model, task.device, sampling
        self.generator = torch.Generator(task.device).manual_seed(sampling.seed)

    def _answers(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        return [text + self._after(prompt) for text, prompt in zip(texts, ids, strict=True)]

    def _after(self, prompt: list[int]) -> str:
        """How a prompt goes on, with whatever stands between words."""
        following = sample(
            self.model,
            torch.tensor([prompt], device=self.device),
            self._length(len(prompt)),
            self.sampling.temperature,
            self.sampling.top_k,
            self.sampling.top_p,
            self.generator,
            suppress_tokens=range(
                len(SPECIALS)
            ),  # not text; at </s> the vocabulary would stop writing
        )
        whole = self.vocabulary.decode([*prompt, *following[0].tolist()])
        return whole.removeprefix(self.vocabulary.decode(prompt))

    def _length(self, prompt: int) -> int:
        """How many tokens follow a prompt of so many; ValueError if not so many can."""
        wanted = self.sampling.length or _USUAL_LENGTH
        needed = prompt + wanted - 1  # nobody reads the last
        has = available_positions(self.model, needed)
        if prompt > has:
            raise ValueError(f"a prompt of {prompt} tokens, but the model has {has} positions")
        fits = has - prompt + 1
        if self.sampling.length is not None and fits < wanted:
            raise ValueError(
                f"a prompt of {prompt} tokens and --length {wanted} need {needed} positions, the "
                f"model has {has}: --length {fits} works"
            )
        return fits


@runtime_checkable
class LabelledText(Protocol):
    """What the data of a classifier has if it is made of text."""

    @property
    def text_vocabulary(self) -> TextVocabulary:
        """How texts are read."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, by their numbers."""


class Labeller(Predictor):
    """Answers a text with the name of its class.

    Args:
        task: what was trained, in evaluation mode.
    """

    def __init__(self, task: Classification) -> None:
        if not isinstance(task.data, LabelledText):
            raise CannotPredict(_NOT_TEXT.format(type(task.data).__name__))
        super().__init__(task.data.text_vocabulary)
        self.task, self.classes = task, task.data.classes

    @torch.no_grad()
    def _answers(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        logits = self.task.model(pad(ids).to(self.task.device))
        return [self.classes[label] for label in logits.argmax(-1).tolist()]


def predictor(task: AttentionTask, sampling: Sampling) -> Predictor:
    """What answers lines of text with a task's network, on the GPU if there is one.

    Raises:
        CannotPredict: if the network or its data has nothing to do with text.
    """
    task.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(task, SequenceToSequence):
        return Writer(task)
    if isinstance(task, LanguageModel):
        return Continuer(task, sampling)
    if isinstance(task, Classification):
        return Labeller(task)
    raise CannotPredict(f"nothing is known of how {type(task).__name__} answers text")


def answers(predictor: Predictor, lines: Iterable[bytes], batch: int) -> Iterator[list[str]]:
    """The answers to lines, in order; some at a time, as soon as they are known.

    Args:
        predictor: answers them.
        lines: in UTF-8.
        batch: how many lines to wait for.

    Raises:
        BadLine: if a line is not UTF-8 or the network cannot read it; those before are answered.
    """
    numbered = enumerate(lines, start=1)
    while taken := list(islice(numbered, 1 if predictor.one_by_one else batch)):
        texts, error = _decoded(taken)
        yield from _answered(predictor, texts)
        if error is not None:
            raise error


def _decoded(lines: Iterable[tuple[int, bytes]]) -> tuple[list[tuple[int, str]], BadLine | None]:
    """Numbered texts up to the first that is none, and what is wrong with that."""
    texts = []
    for number, line in lines:
        try:
            texts.append((number, line.decode().removesuffix("\n").removesuffix("\r")))
        except UnicodeDecodeError as error:
            return texts, BadLine(f"line {number} is not UTF-8, from its byte {error.start + 1} on")
    return texts, None


def _answered(predictor: Predictor, texts: Sequence[tuple[int, str]]) -> Iterator[list[str]]:
    """The answers to all at once, or to those before one that cannot be answered."""
    try:
        yield predictor.answer([text for _, text in texts])
    except ValueError:
        for number, text in texts:
            try:
                yield predictor.answer([text])
            except ValueError as error:
                problem, _, advice = str(error).partition("; ")
                # What would have helped in training comes too late.
                works = "; shorter lines can be read" if advice else ""
                raise BadLine(f"line {number}: {problem}{works}") from error
