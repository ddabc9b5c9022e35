"""The commands of the docs are run, in this process, on fewer examples and for a few steps."""

import io
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.test_docs import COMMANDS, alternatives

PLANNED = "its sweep is only planned here; tests/cli/test_evaluate_other_data.py runs such"
#: Why a command is not run here, by what it contains.
NOT_RUN = {
    "--config-dir": "needs the files of its page, with which tests run it elsewhere",
    "--device cuda": "needs a GPU",
    "trainer=ddp ": "needs GPUs",
    "trainer=fsdp": "needs GPUs",
    "trainer=ddp_cpu": "starts processes; tests/training/ranks runs such",
    "trainer.compile": "compiles for a minute; tests/training/test_compilation.py runs such",
    "hydra/launcher=slurm": "needs a cluster; tests/slurm runs such on a simulated one",
    "data.source=hub": "needs the network; tests/data run such on files",
    "wandb": "needs a W&B server; tests/tracking runs such on a simulated one",
    "logger=tensorboard": "needs the package tensorboard",
    "sync ": "needs a W&B server; tests/cli/test_sync.py runs it on a simulated one",
    "dashboard ": "needs a W&B server; tests/reports/test_wandb_dashboard.py runs it on one",
    "bench ": "measures for minutes; tests/cli/test_bench_attention.py runs it on small sizes",
    "evaluate outputs/lengths": PLANNED,
    "report outputs/lengths": PLANNED,
    "outputs/brackets": "needs the files of its page, with which tests run it elsewhere",
    "seed=range(100)": "plans 12,000 jobs",
    "model.num_layers=24": "estimates a large model; tests/training/test_estimate.py runs such",
}
#: Files that the pages name.
FILES = {
    "pairs.tsv": "".join(f"{'ab'[n % 2] * (n % 5 + 1)} {n}\t{n} c\n" for n in range(200)),
    "reviews.tsv": "".join(
        f"a {'good' if n % 2 else 'bad'} film {n}\t{n % 2}\n" for n in range(200)
    ),
    "reviews.csv": "review,stars\n" + "".join(f"film {n},{n % 2}\n" for n in range(200)),
    "europarl/1.csv": "en,de\n" + "".join(f"one {n},eins {n}\n" for n in range(200)),
    "book.txt": "".join(f"line {n} of a book, which has a few more words\n" for n in range(300)),
}
FILES |= {"poems.txt": FILES["book.txt"], "other.txt": FILES["book.txt"] * 2}
FILES |= {"other.tsv": FILES["pairs.tsv"]}
FILES |= {f"{name}.tsv": FILES["pairs.tsv"].replace("c", name) for name in "abc"}
#: The sweep that is run, since other commands read its runs.
SWEEP = "hydra.sweep.dir=outputs/second"
#: Overrides that make a training short.
SHORT = ("trainer.max_steps=2", "trainer.val_check_interval=1.0", "logger=csv")
#: Overrides that make a dataset small, by the choice in a command.
SMALL = {
    "digits": (),
    "self_attention_classifier": (),
    "text": ("data.length=16", "data.batch_size=4"),
    "pairs": (),
    "labels": (),
    "g2p": ("data.limit=300", "data.evaluation_limit=20"),
}
SYNTHETIC = ("data.examples=64", "data.evaluation_examples=8")


def reduced(words: list[str]) -> list[str]:
    """The arguments of a command whose training is short; one job of a sweep is planned."""
    if words[0] != "train" or "--cfg" in words or "--info" in words:
        return words
    if "--extend" in words:
        return [*words, "trainer.max_steps=4"]
    chosen = [word.partition("=")[2] for word in words if re.match(r"(data|experiment)=", word)]
    data = "g2p" if not chosen or chosen == ["demo"] else chosen[0]
    short = [*SMALL.get(data, SYNTHETIC), *SHORT]
    if "-m" not in words:
        return [*words, *short]
    if SWEEP in words:
        return [*(word.replace("seed=0,1", "seed=0") for word in words), *short]
    if not any(word.startswith("sweep.zip=") for word in words):  # which must be swept
        words = [alternatives(word)[0] if "=" in word else word for word in words]
    return [*words, *short, "--dry-run"]


def order(command: str) -> int:
    """Commands that make a run which others read come first."""
    return SWEEP not in command and not re.search(r"dir=outputs/(?!longer)", command)


RUN = [each for each in COMMANDS if not any(part in f"{each} " for part in NOT_RUN)]


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory with the files that the pages name."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def runs(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def check(words: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"tomato\n")))
        answer = command(*reduced(shlex.split(words)))
        assert answer.code == 0, (words, answer)

    return check


@pytest.mark.parametrize("words", [each for each in RUN if "outputs/" not in each])
def test_a_command_of_the_docs_runs(words: str, runs: Callable[[str], None]) -> None:
    runs(words)


def test_the_commands_that_name_runs_run_in_order(runs: Callable[[str], None]) -> None:
    """In one test, since pytest-xdist may give the tests of a file to several processes."""
    for words in sorted((each for each in RUN if "outputs/" in each), key=order):
        runs(words)
