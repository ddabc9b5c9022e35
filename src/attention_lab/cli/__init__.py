"""The command `attention-lab`. Each verb is a module of its own, imported when it is called."""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from attention_lab.config.imports import forget_working_directory
from attention_lab.printing import echo, printable
from attention_lab.spelling import nearest

#: Each verb, the module it lives in, and what it does.
VERBS = {
    "train": ("train", "train one run, or with -m a sweep; --dry-run shows what that launches"),
    "evaluate": ("evaluate", "metrics of a finished run, from its checkpoint"),
    "predict": ("predict", "answer lines of text with a finished run"),
    "report": ("report", "compare the runs of sweeps: table, report.html, report.csv"),
    "sync": ("sync", "upload W&B runs that were logged offline or cut off"),
    "doctor": ("doctor", "check versions, devices, SLURM, disk and W&B"),
    "list": ("list_options", "what there is: attention, data, model, experiment"),
}

#: Verbs that import Lightning, which reads a rank from the environment when it is imported.
WITH_LIGHTNING = {"train", "evaluate", "predict", "doctor"}

#: The flag of `train`, which Hydra does not know.
DRY_RUN = "--dry-run"

HELP = """\
Compare attention mechanisms, and trust the answer.

usage: attention-lab VERB …

{verbs}

for example
  attention-lab train attention=additive data=g2p model=encoder_decoder trainer=cpu
  attention-lab train -m attention=scaled_dot_product,additive seed=0,1,2
  attention-lab VERB --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit code: 0 done, 1 it failed, 2 it was wrong."""
    if arguments is None:
        forget_working_directory()
        arguments = sys.argv[1:]
    verb, *rest = list(arguments) or ["--help"]
    if verb in ("-h", "--help", "help"):
        verbs = (f"  {name:<10}{does}" for name, (_, does) in VERBS.items())
        echo(*HELP.format(verbs="\n".join(verbs)).split("\n"))
        return 0
    if verb == "--version":
        from importlib.metadata import version

        echo(version("attention-lab"))
        return 0
    if verb not in VERBS:
        return fail(f"there is no verb {verb!r}{nearest(verb, VERBS)}", 2)
    module, _ = VERBS[verb]
    warnings.formatwarning = _one_line
    if verb in WITH_LIGHTNING:
        from attention_lab.training.distributed.cluster_environment import ignore_leftovers

        ignore_leftovers()
    if verb == "train" and DRY_RUN in rest:
        module, rest = "dry_run", [argument for argument in rest if argument != DRY_RUN]
    try:
        return importlib.import_module(f"attention_lab.cli.{module}").run(rest)
    except KeyboardInterrupt:
        return fail("interrupted", 1)
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed at exit
        return 0


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning for the user, who has no use for the line of code that it comes from."""
    return f"attention-lab: {printable(' '.join(str(message).split()))}\n"


def warn(message: str) -> None:
    """Print a warning of one line on standard error; the command continues."""
    echo(f"attention-lab: {' '.join(message.split())}", error=True)


def fail(message: str, code: int) -> int:
    """Say in one line what is wrong; the result is the exit code to end with."""
    warn(message)
    return code
