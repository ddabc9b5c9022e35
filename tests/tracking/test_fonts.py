"""Names in attention maps are drawn with a font that has their characters."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

from attention_lab.external_programs import CompletedProgram
from attention_lab.tracking import fonts
from attention_lab.tracking.fonts import default_font, font_for

SERIF = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSerif.ttf")


@pytest.fixture(autouse=True)
def empty_caches() -> Iterator[None]:
    for function in (fonts._installed_font, fonts._warn_of_boxes):
        function.cache_clear()
    yield
    for function in (fonts._installed_font, fonts._warn_of_boxes):
        function.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, *files: Path | str) -> list[tuple[str, ...]]:
    """Let fontconfig find these files; returns its calls."""
    calls: list[tuple[str, ...]] = []

    def fc_list(*command: str, **_: object) -> CompletedProgram:
        calls.append(command)
        return CompletedProgram("".join(f"{file}: \n" for file in files), "", 0, None)

    monkeypatch.setattr(fonts, "run_program", fc_list)
    return calls


@pytest.mark.parametrize("text", ["", "word", "über", "слово", "λέξη", "a\tb", "≥1"])
def test_the_default_font_shows_what_it_has(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(monkeypatch)
    assert font_for(text) is default_font()
    assert calls == []


@pytest.mark.parametrize("text", ["日本", "ไทย", "हिन्दी", "한"])
def test_an_installed_font_shows_the_rest(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(monkeypatch, "/nope.ttf", SERIF)
    assert getattr(font_for(text), "path", None) == str(SERIF)
    font_for(text)  # the font of a block of characters is looked up once
    ((program, characters, _),) = calls
    assert program == "fc-list"
    assert int(characters.removeprefix(":charset="), 16) >> 6 == ord(text[0]) >> 6


def test_without_fontconfig_the_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = CompletedProgram("", "", None, "No such file or directory: 'fc-list'")
    monkeypatch.setattr(fonts, "run_program", lambda *_, **__: missing)
    with pytest.warns(UserWarning, match="the default font lacks: fontconfig, which finds other"):
        assert font_for("日本") is default_font()


def test_without_such_a_font_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.warns(UserWarning, match="show boxes for characters that no installed font has"):
        assert font_for("日本") is default_font()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        font_for("한")
