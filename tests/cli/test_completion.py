"""Tab completion: what it proposes, and that real shells insert it."""

import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

from attention_lab.cli.completion import SCRIPTS, completions
from attention_lab.tracking.run_directory import write_config
from tests.cli.conftest import Command
from tests.cli.test_command import HEAVY, imported_by


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("ev", {"evaluate"}),
        ("list da", {"data"}),
        ("bench at", {"attention"}),
        ("list data re", {"recall", "reverse"}),
        ("train atten", {"attention=", "attention.", "attention/"}),
        ("train attention/s", {"attention/score="}),
        ("train attention=ad", {"attention=additive"}),
        ("train -m attention=none,ad", {"attention=none,additive"}),
        ("train +attention@model.self_attention=add", {"+attention@model.self_attention=additive"}),
        ("train hydra/la", {"hydra/launcher="}),
        ("train hydra.launcher.par", {"hydra.launcher.parallel="}),
        ("train hydra/launcher=slurm hydra.launcher.par", {"hydra.launcher.partition="}),
        ("train hydra/sweeper=search hydra.sweeper.n_t", {"hydra.sweeper.n_trials="}),
        ("train optimizer.l", {"optimizer.lr="}),
        ("train optimizer.mom", set()),
        ("train optimizer=sgd optimizer.mom", {"optimizer.momentum="}),
        ("train attention=top_k", set()),
        ("train attention/normalizer=top", {"attention/normalizer=top_k"}),
        ("train callbacks=[em", {"callbacks=[ema"}),
        ("train callbacks=[ema,lr", {"callbacks=[ema,lr_monitor"}),
        (
            "train callbacks=[ema,lr_monitor] callbacks.",
            {"callbacks.ema.", "callbacks.lr_monitor."},
        ),
        ("train callbacks=[ema,lr_monitor] callbacks.l", {"callbacks.lr_monitor."}),
        ("train sweep.z", {"sweep.zip="}),
        ("train se", {"seed="}),
        ("train --dr", {"--dry-run"}),
        ("train --cfg j", {"job"}),
        ("train --config-dir ", set()),
        ("predict outputs/one outputs/", set()),
        ("report ", set()),
        ("--shell-completion z", {"zsh"}),
    ],
)
def test_what_is_proposed(line: str, proposed: set[str]) -> None:
    assert set(completions(line.split(" "))) == proposed


@pytest.fixture
def with_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the configs of a sweep of two runs, and with data files."""
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "a": {"path": "/book.txt", "test": None, "test_length": None},
        "b": {"test_lengths": [21, 40], "test_$(rm)": 1, "test_own": "$(rm)"},
    }.items():
        (tmp_path / "sweep" / name).mkdir(parents=True)
        write_config(tmp_path / "sweep" / name, {"data": data})
    (tmp_path / "data_2").mkdir()
    for name in ("data_2/plain.txt", "other.txt", ".hidden.txt", "two words.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("sweep/a da", {"data.test=", "data.test_length=", "data_2/"}),
        ("sweep/b data.te", {"data.test_lengths=", "data.test_own="}),
        ("sweep/b sweep/a data.test_", {f"data.test_{it}=" for it in ("length", "lengths", "own")}),
        ("sweep data.t", {"data.test=", "data.test_length="}),
        ("sweep/a data.test=ot", {"data.test=other.txt"}),
        ("sweep/a data.test=data_", {"data.test=data_2/"}),
        ("sweep/a data.test=data_2/", {"data.test=data_2/plain.txt"}),
        ("sweep/a data.test=.h", {"data.test=.hidden.txt"}),
        ("sweep/a data.test=t", set()),  # the shell quotes this name
        ("sweep/a data.test=[other.txt,da", {"data.test=[other.txt,data_2/"}),
        ("sweep/a --checkpoint last data.test=o", {"data.test=other.txt"}),
        ("sweep/b data.test_lengths=", {"data.test_lengths=[21,40]"}),
        ("sweep/b data.test_own=", set()),
        ("sweep/b data.test=", set()),
        ("none data.te", set()),
        ("sweep/", set()),
        ("data.te", set()),
    ],
)
@pytest.mark.usefixtures("with_runs")
def test_keys_of_the_test_split_are_proposed_behind_runs(line: str, proposed: set[str]) -> None:
    assert set(completions(["evaluate", *line.split(" ")])) == proposed


def test_all_paths_but_hidden_ones_are_proposed(with_runs: Path) -> None:
    proposed = set(completions(["evaluate", "sweep/a", f"data.test={with_runs}/"]))
    assert proposed == {f"data.test={with_runs}/{it}" for it in ("sweep/", "data_2/", "other.txt")}


def test_own_options_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "addled.yaml").write_text("# Mine\n_target_: mine.Addled\nwits: 0\n")
    own = ["train", "--config-dir", str(tmp_path)]
    assert set(completions([*own, "attention=add"])) == {"attention=additive", "attention=addled"}
    assert list(completions([*own, "attention=addled", "attention.w"])) == ["attention.wits="]


def test_it_is_fast(tmp_path: Path) -> None:
    write_config(tmp_path, {"data": {"test": None}})
    for words in (["train", "o"], ["evaluate", str(tmp_path), "data.t"]):
        imported = imported_by(tmp_path, "--complete", *words)
        assert not imported & {*HEAVY, "hydra", "omegaconf"}


def test_an_unknown_shell_is_one_line(command: Command) -> None:
    answer = command("--shell-completion", "tcsh")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "bash, zsh, fish" in answer.err
    assert command("train", "-sc", "install=bash").code == 2


#: How each shell starts without the user's settings, and evaluates the script.
SHELLS = {
    "bash": (["bash", "--norc", "-i"], 'eval "$(attention-lab --shell-completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'eval "$(attention-lab --shell-completion zsh)"'),
    "fish": (["fish", "--no-config"], "attention-lab --shell-completion fish | source"),
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_real_shell_completes(shell: str, with_runs: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (with_runs / "a_file").touch()
    for typed, completed in {
        "eva": "evaluate",
        "train optimizer.l": "train optimizer.lr=",
        "train attention=addi": "train attention=additive",
        "train -m seed=0,1 attention=none,addi": "train -m seed=0,1 attention=none,additive",
        "report a_f": "report a_file",
        'train "optimizer.l': 'train "optimizer.lr=',
        'train "callbacks=[ema,lr': 'train "callbacks=[ema,lr_monitor"',
        'train -m "optimizer=sgd" "optimizer.mom': 'train -m "optimizer=sgd" "optimizer.momentum=',
        "evaluate sweep/a data.test=ot": "evaluate sweep/a data.test=other.txt",
        'evaluate sweep/a "data.test=[ot': 'evaluate sweep/a "data.test=[other.txt"',
        "evaluate sweep/b data.test_l": "evaluate sweep/b data.test_lengths=",
        'evaluate sweep/b "data.test_lengths=[2': 'evaluate sweep/b "data.test_lengths=[21,40]"',
    }.items():
        assert _completed(shell, typed, with_runs).rstrip() == completed
    if shell == "bash":
        assert _completed(shell, "report a_f", with_runs) == "report a_file "


def _completed(shell: str, typed: str, home: Path) -> str:
    """The arguments in the command line of a shell after a tab."""
    arguments, evaluate = SHELLS[shell]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(home)
        os.environ |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "TERM": "dumb",
            "XDG_CONFIG_HOME": str(home),
        }
        os.execvp(arguments[0], arguments)
    try:
        os.write(terminal, f"{evaluate}; echo rea''dy\n".encode())
        _read_until(terminal, r"ready\r?\n")
        os.write(terminal, f"attention-lab {typed}\t".encode())
        os.write(terminal, b"\x01echo '<\x05>'\n")  # at the start and the end of the line
        found = _read_until(terminal, r"\n<attention-lab ([^<>]*)>\r")
        return found[1]
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def _read_until(terminal: int, pattern: str) -> re.Match[str]:
    text, deadline = "", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
        if match := re.search(pattern, text):
            return match
    raise AssertionError(text)
