"""The docs: dialogues are run, commands parsed or composed, and links resolved."""

import argparse
import doctest
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import islice, product, zip_longest
from math import prod
from pathlib import Path
from typing import NoReturn

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from attention_lab import cli
from attention_lab.cli.throughput import throughput_of
from attention_lab.config.hydra_loader import check_flags
from attention_lab.config.overrides import (
    EXTEND,
    FROM,
    flags_last,
    own_directory,
    without_flag,
)
from attention_lab.config.validate import check
from tests.conftest import Compose

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES_WITH_DIALOGUES = [DOCS / "attention.md", DOCS / "decoding.md"]
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
#: A command in a code block; one behind a prompt is shown with its error.
IN_BLOCK = re.compile(
    r"^(?!\$)(?:.*[ |])?(?<!--project )attention-lab ([a-z]+\b[^|<>\n]*)", re.MULTILINE
)
#: A command in a sentence, with at least one argument.
IN_SENTENCE = re.compile(r"`(?:\w+=\S+ )*attention-lab ([a-z]+\s[^`]+)`")
PLACEHOLDER = re.compile(r"…|\$|\b(RUN|SWEEP|NAME|COMMAND|DIRECTORY)\b")
#: A larger sweep is not composed in every combination of values; only this many jobs are.
JOBS = 12


def commands_of(text: str) -> Iterator[str]:
    """The arguments of the `attention-lab` commands of a page that have no placeholders."""
    blocks = "\n".join(match[0] for match in FENCE.finditer(text))
    sentences = " ".join(FENCE.sub("", text).split())
    for found in [*IN_BLOCK.findall(blocks), *IN_SENTENCE.findall(sentences)]:
        command = shlex.join(shlex.split(found, comments=True))
        if not PLACEHOLDER.search(command):
            yield command


COMMANDS = sorted({command for page in PAGES for command in commands_of(page.read_text("utf-8"))})
TRAINING = [each.removeprefix("train ") for each in COMMANDS if each.startswith("train ")]
OTHERS = [each for each in COMMANDS if not each.startswith("train ")]


@pytest.mark.parametrize("page", PAGES_WITH_DIALOGUES, ids=lambda page: page.stem)
def test_dialogues_give_what_they_show(page: Path) -> None:
    failures, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted >= 10
    assert failures == 0


@pytest.mark.parametrize("command", TRAINING)
def test_a_command_is_right(
    command: str, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, words = throughput_of(shlex.split(command))
    for flag in (FROM, EXTEND):  # the overrides are those of a run that is not there
        _, words = without_flag(flag, words)
    words = flags_last([word for word in words if word != cli.DRY_RUN])
    if (own := own_directory(words)) is not None:
        monkeypatch.chdir(tmp_path)
        own.mkdir()
    check_flags(words)
    if own is None:  # otherwise the options are those of the page
        for job in _jobs([word for word in words if "=" in word]):
            check(compose(*job))


class _Parsed(Exception):
    """A command line is valid."""


@pytest.mark.parametrize("command", OTHERS)
def test_a_command_is_parsed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser

    def then_stop(parse: Callable[..., object]) -> Callable[..., NoReturn]:
        def parse_only(*arguments: object, **options: object) -> NoReturn:
            parse(*arguments, **options)
            raise _Parsed

        return parse_only

    words = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.startswith("outputs/"):
            Path(word).mkdir(parents=True, exist_ok=True)
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(parser, name, then_stop(getattr(parser, name)))
    with pytest.raises(_Parsed):
        cli.main(words)


def test_there_are_commands() -> None:
    assert len(TRAINING) >= 55
    assert len(OTHERS) >= 35
    assert {each.split()[0] for each in COMMANDS} == set(cli.COMMANDS)


def _jobs(words: list[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of each job of a sweep; only some jobs if it is large."""
    choices = [alternatives(word) for word in words]
    if prod(map(len, choices)) <= JOBS:
        yield from product(*choices)
        return
    first = [values[0] for values in choices]
    for row in islice(zip_longest(*choices), JOBS):
        yield tuple(value or other for value, other in zip(row, first, strict=True))


def alternatives(word: str) -> list[str]:
    """The values of a sweep, one by one: "seed=0,1" is "seed=0" and "seed=1"."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if not override.is_sweep_override():
        return [word]
    if override.is_interval_sweep():
        interval = override.value()
        values = [str(interval.start), str(interval.end)]
    else:
        values = list(override.sweep_string_iterator())
    return [f"{override.get_key_element()}={value}" for value in values]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert list(broken_links(page, page.read_text("utf-8"))) == []


def test_broken_links_are_found() -> None:
    text = "[a](docs/none.md) [b](#none) [c](README.md#none) ![d](e.png) [f](../f.md) `[g](h)`"
    broken = ["docs/none.md", "#none", "README.md#none", "e.png", "../f.md"]
    assert list(broken_links(ROOT / "SECURITY.md", text)) == broken


def test_anchors_are_those_of_github() -> None:
    text = "# A `b_c`: d, e–f\n## [One](x.md) & two\n# Same\n# Same\n```\n# comment\n```\n"
    assert list(anchors(text)) == ["a-b_c-d-ef", "one--two", "same", "same-1"]


def broken_links(page: Path, text: str) -> Iterator[str]:
    """The relative links and images of a page that lead to no file or heading of the repository."""
    prose = re.sub(r"`[^`]*`(?!\])", "", FENCE.sub("", text))
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose):
        target = "".join(link)
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        is_found = file.is_relative_to(ROOT) and file.exists()
        if is_found and anchor:
            content = text if file == page else file.read_text("utf-8")
            is_found = anchor in anchors(content)
        if not is_found:
            yield target


def anchors(text: str) -> Iterator[str]:
    """The anchors that GitHub gives the headings of a page."""
    seen: dict[str, int] = {}
    for title in re.findall(r"^#{1,6} +(.*?) *#*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{count}" if count else slug
