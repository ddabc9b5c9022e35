"""Print to the terminal without control characters or markup.

Names of runs, errors of jobs and lines of data may contain escape sequences, line breaks, marks
that reverse the direction of text, or brackets that rich would read as styles. The whole package
prints with these functions.
"""

import re
import shutil
import sys
import textwrap
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: C0 and C1 controls, invisible characters, line separators, directions, lone surrogates, tags.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

#: A value that is too long for a message. Parts of paths are shorter: a run's name has up to 109.
_LONG_VALUE = re.compile(r"[^\s/]{121,}")
#: The longest message, in characters.
_LONGEST_MESSAGE = 700


def printable(text: object) -> str:
    r"""Text on one line, with escapes such as ``\x1b`` in place of control characters.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    >>> printable("first line\n  second line")
    'first line second line'
    """
    line = re.sub(r"\s*[\n\r]\s*", " ", str(text)).replace("\t", " ")
    return _UNPRINTABLE.sub(lambda odd: odd[0].encode("unicode_escape").decode(), line)


def shortened(message: str) -> str:
    """A message in which long values, and then the whole, are cut in the middle.

    >>> len(shortened("got " + "x" * 1000))
    107
    """
    message = _LONG_VALUE.sub(lambda found: _cut(found[0], 60, 20), message)
    return message if len(message) <= _LONGEST_MESSAGE else _cut(message, 400, 200)


def _cut(text: str, start: int, end: int) -> str:
    return f"{text[:start]}…{text[-end:]} ({len(text)} characters)"


def warning_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, without the source line that raised it.

    Assign it to ``warnings.formatwarning``.
    """
    return f"attention-lab: {shortened(printable(' '.join(str(message).split())))}\n"


def echo(*lines: object, error: bool = False) -> None:
    """Print :func:`printable` lines and flush.

    Args:
        lines: the lines.
        error: whether to print to standard error.
    """
    text = "\n".join(map(printable, lines)) + "\n"
    # In one write: in a notebook with a progress bar, rich recurses without end if a write ends in
    # an incomplete line, because displaying the lines before it flushes the output.
    print(text, end="", file=sys.stderr if error else sys.stdout, flush=True)


def hanging(text: str, start: str) -> list[str]:
    """Lines of a start and a text, wrapped at the terminal's width with a hanging indent.

    Pipes and files get one line, so that it can be searched. No line ends at a no-break space,
    which becomes a space.

    >>> hanging("a text", "name  ")
    ['name  a text']
    """
    columns, _ = shutil.get_terminal_size((sys.maxsize, 0))
    width = max(columns - len(start), 20)
    lines = textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    indents = [start, *[" " * len(start)] * (len(lines) - 1)]
    wrapped = (f"{indent}{line}".rstrip() for indent, line in zip(indents, lines, strict=True))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped]


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 run", "2 runs", "2 processes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def rich_console(file: IO[str] | None = None, width: int | None = None) -> "Console":
    """A rich console that prints text as it is: no markup, emoji names or highlighting."""
    from rich.console import Console  # slow to import (50 ms)

    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook that can show rich's progress bars."""
    return rich_console().is_jupyter and find_spec("ipywidgets") is not None


def rich_text(*lines: object, **options: Any) -> "Text":
    """A rich text of :func:`printable` lines, for consoles and tables.

    Args:
        lines: the lines.
        options: options of ``rich.text.Text``, such as ``style`` or ``no_wrap``.
    """
    from rich.text import Text

    return Text("\n".join(map(printable, lines)), **options)
