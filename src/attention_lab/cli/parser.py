"""How the verbs that Hydra does not read take their arguments."""

import argparse
from typing import NoReturn

from attention_lab.cli import fail
from attention_lab.spelling import closest


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments of a verb, and what would work.

    Args:
        verb: "evaluate".
        description: what it does.
        usage: in place of the one that is made from its arguments.
    """

    def __init__(self, verb: str, description: str | None, usage: str | None = None) -> None:
        super().__init__(
            f"attention-lab {verb}",
            usage,
            description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        verb = self.prog.partition(" ")[2]
        raise SystemExit(fail(f"{verb}: {message}{self._hint(message)}", 2))

    def _hint(self, message: str) -> str:
        if message.startswith("argument "):
            return ""  # it says what would work
        _, _, unknown = message.partition("unrecognized arguments: ")
        option = unknown.partition(" ")[0].partition("=")[0]
        if option and (meant := closest(option, self._option_string_actions)):
            return f"; did you mean {meant}?"
        return f"; `{self.prog} --help` says what there is"
