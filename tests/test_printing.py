"""What is printed: text from elsewhere neither controls a terminal nor is read as markup."""

import io
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.live import Live

from attention_lab.cli import fail
from attention_lab.cli.predict import _write as write_answers
from attention_lab.cli.train import _failed as failed
from attention_lab.printing import (
    echo,
    hanging,
    printable,
    rich_console,
    rich_text,
    warning_line,
)
from attention_lab.sweeps import display
from attention_lab.sweeps.display import LiveTable, Pace, table
from attention_lab.tracking.run_status import RunStatus

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31mred",
    "a\rb",
    "a\nattention-lab: all is well",
    "a\u2028b",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "invisible\u200b",
    "half \udc80",
    "\b\b\bover",
    "\x7f",
    "\U000e0041tag",
]
MARKUP = ["[/red]", "cannot open [/scratch/x]", "[bold]", ":boom:", "[link=http://evil]x[/link]"]


def is_harmless(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() == text and not any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in text
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_harmless(text)
    assert is_harmless(printable(text))
    echo("first", text)
    echo(text, error=True)
    captured = capsys.readouterr()
    assert [is_harmless(line) for line in captured.out.split("\n")] == [True] * 3
    assert [is_harmless(line) for line in captured.err.split("\n")] == [True] * 2


@pytest.mark.parametrize("text", ["größer → 漢字", "  a  b", "🙂", "[a] b", ""])
def test_other_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", MARKUP)
def test_brackets_are_not_read_as_markup(text: str) -> None:
    file = io.StringIO()
    rich_console(file, width=100).print(text, rich_text(text))
    assert file.getvalue() == f"{text} {text}\n"


@pytest.mark.parametrize("text", [*MARKUP, *HOSTILE])
def test_names_of_jobs_are_escaped_in_the_table_of_a_sweep(text: str, tmp_path: Path) -> None:
    file = io.StringIO()
    console = rich_console(file, width=400)
    running = RunStatus("running", progress={"step": 1, "steps": 2, "metrics": {text: 1.0}})
    run = tmp_path / "runs [new]"
    live = LiveTable([run], Live(console=console, auto_refresh=False))
    live.ended(run, RunStatus("failed", f"OSError: {text}"))
    console.print(table({run: running}, Pace()))
    shown = file.getvalue()
    assert printable(text) in shown
    assert "runs [new]" in shown
    assert all(map(is_harmless, shown.split("\n")))
    assert shown.count("\n") == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_logs_of_jobs_are_escaped(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display.Lines([tmp_path]).ended(tmp_path / text.replace("/", ""), RunStatus("failed", text))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert is_harmless(out[:-1])


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_and_warnings_of_a_command_are_made_printable(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(f"{text}: is no directory", 2) == 2
    assert failed(RuntimeError(text), []) == 1
    assert all(map(is_harmless, capsys.readouterr().err.split("\n")))
    assert is_harmless(warning_line(UserWarning(text))[:-1])


@pytest.mark.parametrize("is_terminal", [True, False])
def test_predictions_are_made_printable_for_terminals_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, "utf-8")
    monkeypatch.setattr(out, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", out)
    write_answers(["a\x1b[2Jb", "c\td"])
    out.flush()
    assert raw.getvalue() == (b"a\\x1b[2Jb\nc d\n" if is_terminal else b"a\x1b[2Jb\nc\td\n")


def test_hanging_lines_fit_the_terminal_and_break_at_no_no_break_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    joined = "trivial baseline 0.5".replace(" ", "\N{NO-BREAK SPACE}")
    assert hanging(f"{joined}, {joined}", "per  ") == [
        "per  trivial baseline 0.5,",
        "     trivial baseline 0.5",
    ]


def test_several_lines_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    echo("one", "two")
    assert list(filter(None, written)) == ["one\ntwo\n"]
