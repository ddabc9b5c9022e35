"""`attention-lab train` and `evaluate`: one run, its files, and its repetition."""

import json
import shlex
import signal
import subprocess
import sys
from datetime import datetime, tzinfo
from pathlib import Path
from typing import NoReturn, Self

import pytest

from attention_lab.config.overrides import flags_last
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.distributed import launch
from tests.cli.conftest import TINY, Command, fresh
from tests.runs import load_data


def test_a_run_writes_every_documented_file(command: Command, tmp_path: Path) -> None:
    answer = command("train", "attention=additive", *TINY, "seed=3")
    assert answer.code == 0, answer.err
    (run,) = tmp_path.glob("outputs/*/*")
    assert run.name.endswith("-additive-seed=3")
    files = {path.name for path in run.iterdir()}
    assert files == {
        ".lock",
        "attention",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "predictions.csv",
        "result.json",
        "status.json",
    }
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "finished"
    assert status["overrides"] == ["attention=additive", *TINY, "seed=3"]
    per = json.loads((run / "result.json").read_text())["test"]["per"]
    assert f"test/per {100 * per:.2f} % trivial baseline " in " ".join(answer.out.split())

    evaluated = command("evaluate", str(run))
    assert evaluated.code == 0
    assert f"test/per {100 * per:.2f} %" in " ".join(evaluated.out.split())
    trivial = json.loads((run / "result.json").read_text())["trivial_baseline"]
    assert set(trivial) == {"per", "wer"}
    for name, value in trivial.items():
        (line,) = (line for line in evaluated.out.splitlines() if f"test/{name} " in line)
        assert f"   trivial baseline {100 * value:.2f} %, neighbours " in line
    assert evaluated.out.count("trivial baseline") == 2


def test_evaluate_shows_trivial_and_shortcut_baselines_of_the_split(
    command: Command, tmp_path: Path
) -> None:
    """The trivial baseline depends on the split; even pairs also have a shortcut."""
    small = ["data.examples=200", "data.evaluation_examples=60", "data.batch_size=64"]
    tiny = ["logger=csv", "trainer=cpu", "trainer.max_steps=1", "model.d_model=16"]
    assert command("train", "data=even_pairs", *small, *tiny, "hydra.run.dir=run").code == 0
    data = load_data(read_config(tmp_path / "run"))
    for split in ("validation", "test"):
        answer = command("evaluate", "run", "--split", split)
        (line,) = (line for line in answer.out.splitlines() if f"{split}/accuracy " in line)
        trivial = data.trivial_baseline(split)["accuracy"]
        assert line.endswith(
            f"   trivial baseline {100 * trivial:.2f} %, first and last symbol 100.00 %"
        )
    assert data.trivial_baseline("validation") != data.trivial_baseline("test")


def test_a_run_can_be_run_again_from_its_config_alone(command: Command, tmp_path: Path) -> None:
    assert command("train", *TINY, "attention=general", "hydra.run.dir=first").code == 0
    assert command("train", "--from", "first", "hydra.run.dir=second").code == 0
    first, second = (
        json.loads((tmp_path / run / "result.json").read_text()) for run in ("first", "second")
    )
    assert first["test"] == second["test"]
    configs = [(tmp_path / run / "config.yaml").read_text() for run in ("first", "second")]
    assert configs[0] == configs[1]


def test_a_users_mechanism_is_one_file_and_one_yaml(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sharp.py").write_text(
        "from attention_lab.attention import DotProduct\n"
        "class Sharp(DotProduct):\n"
        "    '''logits = sharpness · q · k.'''\n"
        "    def __init__(self, heads: int, head_dim: int, sharpness: float = 2.0) -> None:\n"
        "        super().__init__(heads, head_dim)\n"
        "        self.sharpness = sharpness\n"
        "    def fold(self, query, key):\n"
        "        return query, key, self.sharpness\n"
    )
    (tmp_path / "mine" / "attention").mkdir(parents=True)
    (tmp_path / "mine" / "attention" / "sharp.yaml").write_text(
        "# q · k, sharper\n"
        "defaults: [_layer, _self_]\n"
        "score: {_target_: sharp.Sharp, _partial_: true, sharpness: 3.0}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = ["--config-dir", "mine", "attention=sharp"]
    answer = command("train", *own, *TINY, "hydra.run.dir=run")
    assert answer.code == 0, answer.err
    wrong = command("train", *own, *TINY, "attention.score.sharpness=blunt")
    assert wrong.code == 2
    assert wrong.err.startswith("attention-lab: attention.score.sharpness: ")
    assert wrong.err.endswith("got 'blunt'\n")


def test_flags_may_be_between_overrides(tmp_path: Path) -> None:
    arguments = ["data=digits", "--cfg", "job", "--package", "data", "seed=3", "--resolve"]
    answer = fresh("-m", "attention_lab", "train", *arguments, "data.batch_size=7", cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[1:] == [
        "_target_: attention_lab.data.bundled.digits.Digits",
        "read: rows",
        "batch_size: 7",
        "seed: 3",
    ]


def test_values_stay_with_their_flags() -> None:
    """Also where they look like an override, as the directory of a run does."""
    given = ["a=b", "-cd", "seed=1", "c=d", "--info", "-m", "e=f", "-i", "config", "~g"]
    flags = ["-cd", "seed=1", "--info", "-m", "-i", "config"]
    assert flags_last(given) == ["a=b", "c=d", "e=f", "~g", *flags]


def test_an_unwritable_directory_gives_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    for sweep in ([], ["-m"]):
        answer = command("train", *sweep, *TINY)
        assert answer.code == 1
        assert answer.err.startswith("attention-lab: cannot write the run: ")
        assert "outputs" in answer.err
        assert answer.err.count("\n") == 1


DIGITS = ("data=digits", "logger=csv", "trainer=cpu", "trainer.max_steps=1", "model.d_model=16")


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it half past twelve for Hydra, whose ``now`` names directories."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 11, 27, 12, 30, tzinfo=tz)

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)


def test_runs_that_start_in_the_same_second_have_different_directories(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_the_clock(monkeypatch)
    name = "12-30-00-scaled_dot_product-seed=0"
    (tmp_path / "outputs" / "2026-11-27" / f"{name}-2").mkdir(parents=True)  # by another process
    for number in ("", "-3"):
        answer = command("train", *DIGITS)
        assert answer.code == 0, answer.err
        assert f"outputs/2026-11-27/{name}{number}\n" in answer.out
    runs = list(tmp_path.glob("outputs/*/*"))
    assert {run.name for run in runs} == {name, f"{name}-2", f"{name}-3"}
    assert len(list(tmp_path.glob("outputs/*/*/result.json"))) == 2
    assert command("train", *DIGITS, "model.heads=3").code == 2
    assert list(tmp_path.glob("outputs/*/*")) == runs


def test_a_run_interrupted_before_it_started_leaves_no_directory(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", interrupted)
    assert command("train", *DIGITS) == (1, "", "attention-lab: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_given_directory_is_used_even_if_it_contains_the_time(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run a day, say: the second command resumes the first or is refused."""
    stop_the_clock(monkeypatch)
    daily = "hydra.run.dir=${now:%Y-%m-%d}"
    assert command("train", *DIGITS, daily).code == 0
    assert "2026-11-27 holds a run that has finished" in command("train", *DIGITS, daily).err
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-27"]


@pytest.mark.parametrize("chosen", [[], ["hydra.run.dir=mine/run"]])
def test_rank_0_creates_the_directory(
    chosen: list[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others need none: they neither take its name nor leave it behind."""
    monkeypatch.setattr(launch, "launch", lambda spec: made.append(spec.directory))
    made: list[Path] = []
    for rank in ("1", "0"):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", "29500")
        assert command("train", *DIGITS, "trainer=ddp_cpu", *chosen).code == 0
    other, first = made
    assert other == tmp_path
    assert not first.name.endswith("-2")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_another_run_is_not_changed(
    command: Command, tmp_path: Path
) -> None:
    assert command("train", *TINY, "hydra.run.dir=run").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    answer = command("train", *TINY, "hydra.run.dir=run", "seed=1")
    assert answer.code == 2
    assert "run holds a run that has finished; name another directory" in answer.err
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}


def test_a_diverged_run_exits_with_1(command: Command, tmp_path: Path) -> None:
    answer = command("train", *TINY, "optimizer.lr=1e30", "hydra.run.dir=run")
    assert answer.code == 1
    assert answer.err.startswith("attention-lab: diverged: ")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_a_directory_without_a_run_gives_one_line(command: Command, verb: str) -> None:
    for place, code in ((".", 1), ("nowhere", 2)):
        answer = command(verb, place)
        assert answer.code == code
        assert answer.err.startswith("attention-lab: ")
        assert answer.err.count("\n") == 1


def test_self_attention_may_be_another_mechanism(command: Command, tmp_path: Path) -> None:
    tiny = (*TINY, "hydra.run.dir=run", "attention=additive")
    answer = command("train", *tiny, "+attention@model.self_attention=multi_head")
    assert answer.code == 0, answer.err
    backends = json.loads((tmp_path / "run" / "result.json").read_text())["backends"]
    assert backends["decoder.0.cross_attention"] == "fused"
    assert backends["decoder.0.self_attention"] == backends["encoder.1.self_attention"] == "sdpa"


def test_a_warning_is_one_line_without_its_source_line(tmp_path: Path) -> None:
    """In a new process, as pytest catches warnings in this one."""
    lines = "".join(f"{a}{b}\t{b}\n" for a in "abcdefgh" for b in "xy")
    for name, text in (("train", lines), ("other", lines + "zz\tx\n")):
        (tmp_path / f"{name}.tsv").write_text(text)
    files = ["data.train=train.tsv", "data.validation=other.tsv", "data.test=train.tsv"]
    small = ["model.d_model=16", "trainer=cpu", "trainer.max_steps=1", "logger=csv"]
    answer = fresh("-m", "attention_lab", "train", "data=labels", *files, *small, cwd=tmp_path)
    assert answer.code == 0, answer.err
    warned = [line for line in answer.err.splitlines() if "validation" in line]
    assert warned == [
        "attention-lab: 16 of the 17 validation texts are in the training split too: scores on "
        "them may be inflated by leakage",
        "attention-lab: 16 of the 16 test texts are in the validation split too: scores on them "
        "may be inflated by leakage",
        "attention-lab: other.tsv: 2 of the 34 tokens of validation do not occur in training and "
        "become <unk>; data.tokens=bytes avoids that",
    ]


def test_ctrl_c_is_acknowledged_at_once(tmp_path: Path) -> None:
    command = ["data=digits", "trainer=cpu", "logger=csv", "trainer.max_epochs=500"]
    run = subprocess.Popen(
        [sys.executable, "-m", "attention_lab", "train", *command, "hydra.run.dir=run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, such as these tests, may ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stdout is not None
    run.stdout.readline()  # training has begun
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    again = "the same command with hydra.run.dir=run resumes it"
    assert said.splitlines()[-1] == f"attention-lab: interrupted; {again}"


def test_a_run_continues_after_its_pipe_is_closed(tmp_path: Path) -> None:
    """As after ``| head``, or if the terminal is closed."""
    small = ["data=digits", "trainer=cpu", "logger=csv", "model.d_model=16", "trainer.max_epochs=2"]
    with (tmp_path / "err").open("w") as errors:
        run = subprocess.Popen(
            [sys.executable, "-m", "attention_lab", "train", *small, "hydra.run.dir=run"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(timeout=60) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    assert (tmp_path / "err").read_text() == ""


def test_output_works_unbuffered_and_without_stderr() -> None:
    """As with ``python -u``, and if stderr is closed."""
    script = (
        "import os\n"
        "from attention_lab.training.distributed.workers import ignore_output_errors\n"
        "ignore_output_errors()\n"
        "print('now')\n"
        "os._exit(0)\n"  # which flushes nothing
    )
    command = f"{shlex.quote(sys.executable)} -u -c {shlex.quote(script)} 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "now\n"
