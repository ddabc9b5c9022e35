"""Sweeps: every job a process of its own, none of which can hide or stop another."""

import csv
import json
import os
from pathlib import Path

import pytest

from attention_lab.sweeps.jobs import Job, check_jobs, job_names
from attention_lab.training.nodes import ConfigError
from tests.cli.conftest import TINY, Answer, Command, command  # noqa: F401


def statuses(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/status.json")}


@pytest.fixture
def swept(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Answer, Path]:  # noqa: F811
    """A sweep of four jobs in which one mechanism kills its process and another diverges."""
    (tmp_path / "faulty.py").write_text(
        "import os\n"
        "from attention_lab.attention import DotProduct\n"
        "class Deadly(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        os._exit(9)\n"
        "class Endless(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        os.environ['LEAKED'] = 'yes'\n"
        "        return super().forward(query, key) * float('inf')\n"
        "class Strict(DotProduct):\n"
        "    def forward(self, query, key):\n"
        "        if 'LEAKED' in os.environ: raise RuntimeError('another job reached this one')\n"
        "        return super().forward(query, key)\n"
    )
    options = tmp_path / "mine" / "attention"
    options.mkdir(parents=True)
    for name in ("Deadly", "Endless", "Strict"):
        (options / f"{name.lower()}.yaml").write_text(
            "defaults: [_layer, _self_]\nbackend: eager\n"
            f"score: {{_target_: faulty.{name}, _partial_: true}}\n"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = command(
        "train",
        "-m",
        *("--config-dir", "mine", "hydra.sweep.dir=sweep"),
        *TINY,
        "trainer.log_every=1",
        "attention=deadly,endless,strict,additive",
    )
    return answer, tmp_path / "sweep"


def test_one_job_that_fails_neither_stops_the_others_nor_is_hidden(
    swept: tuple[Answer, Path],
) -> None:
    answer, sweep = swept
    found = statuses(sweep)
    assert {name: status["status"] for name, status in found.items()} == {
        "attention=deadly": "running",  # it had no time to say otherwise
        "attention=endless": "diverged",
        "attention=strict": "finished",
        "attention=additive": "finished",
    }
    assert answer.code == 1
    assert "2 runs did not finish" in answer.err
    assert "died without a word" in answer.out
    assert "diverged" in answer.out
    with (sweep / "report.csv").open() as file:
        groups = {row["group"]: row["n"] for row in csv.DictReader(file) if row["metric"] == "per"}
    assert groups["strict"] == groups["additive"] == "1"
    assert groups["deadly"] == groups["endless"] == "0"


def test_every_job_is_a_process_of_its_own(swept: tuple[Answer, Path]) -> None:
    processes = {status["pid"] for status in statuses(swept[1]).values()}
    assert len(processes) == 4
    assert os.getpid() not in processes
    assert "LEAKED" not in os.environ


def test_a_sweep_compares_by_what_was_swept(command: Command, tmp_path: Path) -> None:  # noqa: F811
    arguments = ("attention=dot_product,none", "seed=0,1", "hydra.sweep.dir=sweep")
    answer = command("train", "-m", *TINY, *arguments)
    assert answer.code == 0, answer.err
    assert "dot_product" in answer.out
    sweep = tmp_path / "sweep"
    assert sorted(statuses(sweep)) == [
        "attention=dot_product,seed=0",
        "attention=dot_product,seed=1",
        "attention=none,seed=0",
        "attention=none,seed=1",
    ]
    assert (sweep / "report.html").is_file()
    with (sweep / "report.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "per"]
    by_hand = [
        json.loads((sweep / f"attention=none,seed={seed}" / "result.json").read_text())["test"]
        for seed in (0, 1)
    ]
    (none,) = [row for row in rows if row["group"] == "none"]
    assert float(none["mean"]) == pytest.approx(sum(test["per"] for test in by_hand) / 2)
    # What a job prints is in its log, not on the screen of the sweep.
    log = (sweep / "attention=none,seed=0" / "log.txt").read_text()
    assert "step 2/" in log or "step 4/4" in log

    again = command("report", "sweep", "--baseline", "attention=none")
    assert again.code == 0
    assert "dot_product" in again.out
    unknown = command("report", "sweep", "--baseline", "attention=additive")
    assert unknown.code == 2
    assert "dot_product" in unknown.err


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("attention=additive,aditive", "attention=aditive: there is no such option"),
        ("attention.heads=1,3", "attention.heads=3: attention: width 16 is not divisible by"),
        ("optimizer.lr=1e-3,abc", "optimizer.lr=abc: optimizer.lr: input should be a valid number"),
    ],
)
def test_one_wrong_job_stops_the_sweep_before_it_begins(
    command: Command,  # noqa: F811
    tmp_path: Path,
    mistake: str,
    says: str,
) -> None:
    answer = command("train", "-m", *TINY, mistake)
    assert answer.code == 2
    assert answer.err.startswith(f"attention-lab: {says}")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_names_are_short_unique_and_safe() -> None:
    common = ["data.limit=5", "trainer=cpu"]
    assert job_names([[*common, "seed=0"], [*common, "seed=1"]]) == ["seed=0", "seed=1"]
    odd = job_names([["path=/a/b"], ["path=/a_b"], ["path=" + "x" * 300]])
    assert len(set(odd)) == 3
    assert all("/" not in name and len(name) < 128 for name in odd)
    assert job_names([["seed=0"]]) == ["seed=0"]


def test_jobs_that_differ_in_seed_only_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr("attention_lab.sweeps.jobs.check", lambda config: None)
    monkeypatch.setattr("attention_lab.sweeps.jobs.load_data", lambda config: "data")
    monkeypatch.setattr(
        "attention_lab.sweeps.jobs.build", lambda config, data: built.append(config["seed"])
    )
    jobs = [
        Job(Path("run"), {"seed": seed, "data": {"seed": seed}, "model": {"width": width}}, [])
        for width in (1, 2)
        for seed in (0, 1)
    ]
    check_jobs(jobs)
    assert built == [0, 0]


def test_a_job_that_cannot_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^this-run: seed: "):
        check_jobs([Job(Path("this-run"), {"seed": "x"}, [])])
