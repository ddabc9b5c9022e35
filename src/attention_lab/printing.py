"""Printing to the terminal: text from elsewhere never controls it, nor is it read as markup.

Names of runs, errors of jobs and lines of data may hold anything: escape sequences, line breaks,
marks that reverse the direction of writing, brackets that rich would read as styles. All that the
package prints goes through here.
"""

import re
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: C0 and C1 controls, invisible characters, line separators, directions, lone surrogates, tags.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""Text in one line, with escapes such as ``\x1b`` in place of control characters.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    >>> printable("first line\n  second line")
    'first line second line'
    """
    line = re.sub(r"\s*[\n\r]\s*", " ", str(text)).replace("\t", " ")
    return _UNPRINTABLE.sub(lambda odd: odd[0].encode("unicode_escape").decode(), line)


def echo(*lines: object, error: bool = False) -> None:
    """Print each of the lines, made :func:`printable`, and flush.

    Args:
        lines: what to print.
        error: whether it goes to standard error.
    """
    text = "\n".join(map(printable, lines))
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


def rich_console(file: IO[str] | None = None, width: int | None = None) -> "Console":
    """A console of rich's that reads no markup, emoji names or highlights in plain text."""
    from rich.console import Console  # a twentieth of a second

    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def rich_text(*lines: object, **options: Any) -> "Text":
    """A text of rich's, of :func:`printable` lines, for what a console prints and tables hold.

    Args:
        lines: of the text.
        options: of ``rich.text.Text``, as ``style`` or ``no_wrap``.
    """
    from rich.text import Text

    return Text("\n".join(map(printable, lines)), **options)
