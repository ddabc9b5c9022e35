"""Many jobs take few calls of sbatch and squeue; here, these are programs that record calls."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.sweeps.slurm_executor import Slurm
from attention_lab.sweeps.slurm_queue import Queue, in_queue
from attention_lab.sweeps.watchers import Watchers

#: Stands in for each SLURM program: appends its name and the array to ``calls``.
PROGRAM = """\
#!/bin/sh
here=$(dirname "$0"); name=$(basename "$0")
array=
[ "$name" = sbatch ] && array=$(sed -n 's/^#SBATCH --array=//p' "$1")
echo "$name $array" >> "$here/calls"
case "$name" in
    scontrol) echo "MaxArraySize            = 101" ;;
    sbatch) echo "Submitted batch job $(grep -c sbatch "$here/calls")" ;;
    squeue) cat "$here/queue" ;;
esac
"""


class Programs:
    """The SLURM programs on PATH, in one directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("sbatch", "srun", "squeue", "scontrol"):
            (home / name).write_text(PROGRAM)
            (home / name).chmod(0o755)
        (home / "queue").touch()

    def calls(self) -> list[list[str]]:
        """The calls since the last time: names, and the arrays that were submitted."""
        path = self.home / "calls"
        calls = [line.split() for line in path.read_text().splitlines()]
        path.write_text("sbatch\n" * sum(call[0] == "sbatch" for call in calls))
        return [call for call in calls if call != ["sbatch"]]

    def set_queue(self, states: dict[str, str]) -> None:
        """The jobs that squeue prints."""
        lines = (f"{job}|{state}\n" for job, state in states.items())
        (self.home / "queue").write_text("".join(lines))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    pytest.importorskip("submitit", reason="needs the extra attention-lab[slurm]")
    home = tmp_path / "bin"
    home.mkdir()
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    return Programs(home)


def test_250_jobs_are_three_arrays_and_only_missing_jobs_are_submitted_again(
    programs: Programs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = RunConfig({"trainer": {"accelerator": "cpu"}})
    sweep = tmp_path / "sweep"
    jobs = [RunSpec(config, sweep / str(i), group="sweep", differing=[]) for i in range(250)]
    for job in jobs:
        job.directory.mkdir(parents=True)
    slurm = Slurm(at_once=50, wait=False)
    slurm.run(jobs, Watchers([]))
    assert programs.calls() == [
        ["scontrol"],
        ["sbatch", "0-100%50"],
        ["sbatch", "0-100%50"],
        ["sbatch", "0-47%48"],
    ]
    submitted = [json.loads((job.directory / "slurm.json").read_text())["job"] for job in jobs]
    arrays = Counter(job.partition("_")[0] for job in submitted)
    assert sorted(arrays.values()) == [48, 101, 101]
    assert len(set(submitted)) == 250

    programs.set_queue(dict.fromkeys(submitted[90:], "PENDING"))
    capsys.readouterr()
    slurm.run(jobs, Watchers([]))
    assert programs.calls() == [["squeue"], ["scontrol"], ["sbatch", "0-89%50"]]
    message = "90 jobs submitted to SLURM; 160 are already in the queue or running\n"
    assert capsys.readouterr().out == message

    queue = Queue(interval=3600)
    for _ in range(3):
        queue.refresh()
        assert all(queue.has(job.directory) for job in jobs)
    assert programs.calls() == [["squeue"]]
    assert len(in_queue([job.directory for job in jobs])) == 160
