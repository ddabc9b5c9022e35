"""A sweep: compose and check its jobs, then start or resume them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_lab.config.overrides import key_of
from attention_lab.config.resolve import JobType, RunSpec
from attention_lab.printing import counted, echo
from attention_lab.sweeps import sweep_file
from attention_lab.sweeps.display import display
from attention_lab.sweeps.jobs import (
    Sections,
    check_wandb,
    existing_runs,
    make_job,
    merge_equal,
)
from attention_lab.sweeps.kept_checkpoints import KeptCheckpoints
from attention_lab.sweeps.sweep_file import TUNING
from attention_lab.sweeps.sweep_options import RETRIED, SweepOptions
from attention_lab.sweeps.tuning import Choice, as_record, choose, groups_of, trials, tuned
from attention_lab.sweeps.watchers import FailureLimit, Watch, Watcher, Watchers
from attention_lab.tracking.code_version import code_changes
from attention_lab.tracking.lock import Lock, Locked, is_locked
from attention_lab.tracking.run_directory import RunExists
from attention_lab.tracking.run_status import RunStatus, State, read_status


@dataclass(frozen=True)
class Stage:
    """The jobs of a sweep that run before the next ones are known: its tuning, or all the rest."""

    #: Without duplicates.
    jobs: Sequence[RunSpec]
    #: The status of each run directory.
    statuses: Mapping[Path, RunStatus]
    #: The jobs that start or resume.
    to_run: Sequence[RunSpec]
    #: Whether directories and settings depend on a tuning that has not run.
    is_open: bool = False


class Sweep:
    """The jobs in a sweep's directory, which one process at a time runs.

    Finished jobs are not run again, interrupted jobs resume, and jobs that failed or diverged are
    run again on request.

    Args:
        directory: of the sweep.
        compose: makes the resolved config of a job from its overrides.
        options: the section ``sweep``.
        run: runs jobs until they have ended, or submits them.
        check: raises ConfigError if a job cannot work, before anything is written.
        job_type: the job type of the runs; that of tuning runs is "tune".

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        directory: Path,
        compose: Callable[[Sequence[str]], Mapping[str, Any]],
        options: Mapping[str, Any],
        run: Callable[[Sequence[RunSpec], Watcher], None],
        check: Callable[[Sequence[RunSpec]], None],
        job_type: JobType = "train",
    ) -> None:
        self.directory = directory
        self.compose = compose
        self.options = SweepOptions.of(options)
        self.run_jobs = run
        #: Counts the failures of all stages of a tuning, and of all batches of a search.
        self._failure_limit = FailureLimit(self.options.max_failures)
        self._kept_checkpoints = KeptCheckpoints(self.options.keep, self._group_to_keep)
        self.check_jobs = check
        self.job_type = job_type
        #: The overrides of each job of the sweep, in this and in earlier commands.
        self._overrides: dict[Path, list[str]] = {}

    def run(
        self,
        jobs: Sequence[list[str]],
        shared: Collection[str],
        watch: Watch | None = None,
    ) -> list[Path]:
        """Start or resume the jobs that need it.

        Args:
            jobs: the overrides of each.
            shared: the keys of the overrides in which no two jobs of the sweep differ.
            watch: makes a watcher of the runs, given the directory of each job.

        Raises:
            ConfigError: if a job cannot work; no job has been started then.
            RunExists: if another process has locked the directory.
            OSError: if the disk is full.

        Returns:
            The run directory of each job.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        lock.write_owner()
        try:
            return self._run_tuned(jobs, shared, watch)
        finally:
            lock.release()

    def plan(self, jobs: Sequence[list[str]], shared: Collection[str]) -> list[Stage]:
        """The stages that :meth:`run` would run; nothing is run or written.

        Raises:
            ConfigError, RunExists: as in :meth:`run`.

        Returns:
            The tuning, if there is one, and the jobs.
        """
        if is_locked(self.directory):
            self._lock().release()
        if self.options.tune is None:
            return [self._checked(self._stage(self._jobs(jobs, shared, self.directory)))]
        tuning = self._tuning(jobs, shared)
        first = self._checked(self._stage(tuning))
        if first.to_run:
            to_come = self._jobs(jobs, shared, self.directory)
            return [first, Stage(to_come, {}, to_come, is_open=True)]
        choices = self._choices(jobs, tuning)
        chosen = [tuned(overrides, choices, self.options) for overrides in jobs]
        return [first, self._checked(self._stage(self._jobs(chosen, shared, self.directory)))]

    def _lock(self) -> Lock:
        try:
            return Lock(self.directory)
        except Locked as error:
            raise RunExists(f"{self.directory}: {error}") from None

    def _run_tuned(
        self, jobs: Sequence[list[str]], shared: Collection[str], watch: Watch | None
    ) -> list[Path]:
        if self.options.tune is None:
            return self._run(self._jobs(jobs, shared, self.directory), watch)
        tuning = self._tuning(jobs, shared)
        self._run(tuning)
        choices = self._choices(jobs, tuning)
        sweep_file.add_tuning(self.directory, as_record(choices, self.options))
        chosen = [tuned(overrides, choices, self.options) for overrides in jobs]
        return self._run(self._jobs(chosen, shared, self.directory), watch)

    def _tuning(self, jobs: Sequence[list[str]], shared: Collection[str]) -> list[RunSpec]:
        """The runs of the tuning, group by group."""
        each = [trials(group, self.options) for group in groups_of(jobs, self.options)]
        # The jobs after the tuning are checked before it starts.
        self.check_jobs(self._jobs(jobs, shared, self.directory))
        return self._jobs([t for ts in each for t in ts], shared, self.directory / TUNING)

    def _choices(self, jobs: Sequence[list[str]], tuning: Sequence[RunSpec]) -> list[Choice]:
        """The setting chosen for each group by the ended runs of the tuning."""
        statuses = iter([read_status(job.directory) for job in tuning])
        return [
            choose(group, [next(statuses) for _ in trials(group, self.options)], self.options)
            for group in groups_of(jobs, self.options)
        ]

    def _jobs(
        self, jobs: Sequence[list[str]], shared: Collection[str], directory: Path
    ) -> list[RunSpec]:
        kind: JobType = self.job_type if directory == self.directory else "tune"
        group, sections = self.directory.name, Sections()
        made = (
            make_job(directory, sections.share(self.compose(o)), o, shared, group, kind)
            for o in jobs
        )
        return list(merge_equal(made, existing_runs(directory)))

    def _stage(self, jobs: Sequence[RunSpec]) -> Stage:
        distinct = {job.directory: job for job in jobs}
        statuses = {path: read_status(path) for path in distinct}
        to_run = [job for path, job in distinct.items() if self._needs_run(statuses[path])]
        return Stage(list(distinct.values()), statuses, to_run)

    def _checked(self, stage: Stage) -> Stage:
        """A stage whose jobs can work and are unchanged."""
        sweep_file.check_unchanged(stage.jobs[0].directory.parent, stage.jobs)
        self.check_jobs(stage.to_run)
        return stage

    def _run(self, jobs: Sequence[RunSpec], watch: Watch | None = None) -> list[Path]:
        directories, parent = [job.directory for job in jobs], jobs[0].directory.parent
        watchers: list[Watcher] = [self._kept_checkpoints, self._failure_limit]
        if watch is not None:
            watchers.append(watch(directories))
        stage = self._checked(self._stage(jobs))
        sweep_file.add_jobs(parent, stage.jobs)
        self._overrides = sweep_file.listed_jobs(parent)
        if left := stage.statuses.keys() - {job.directory for job in stage.to_run}:
            states = [stage.statuses[path].state for path in left]
            echo(_kept(states, len(stage.jobs)))
        for line in _warnings_of_other_code(stage.statuses):
            echo(line, error=True)
        self._delete_checkpoints(parent)
        if stage.to_run:
            echo(f"{counted(len(stage.to_run), 'job')} to run, in {self.directory}")
            check_wandb(stage.to_run, self.directory)
            with display([job.directory for job in stage.to_run]) as shown:
                self.run_jobs(stage.to_run, Watchers([shown, *watchers]))
        self._kept_checkpoints.close()
        sweep_file.end(parent)
        return directories

    def _delete_checkpoints(self, directory: Path) -> None:
        """Delete checkpoints of runs that ended in earlier commands, as ``sweep.keep`` says."""
        for path in self._overrides if self.options.keep != "all" else ():
            if path.resolve().parent == directory.resolve():  # the record may be a stranger's
                self._kept_checkpoints.ended(path, read_status(path))

    def _group_to_keep(self, directory: Path) -> str | None:
        """The group of a run for ``sweep.keep=best``; None for a run of a tuning.

        Runs that differ only in their seed are a group, and so are all trials of a search.
        """
        if directory.parent != self.directory:
            return None
        if self.job_type == "search":
            return ""
        overrides = self._overrides.get(directory, [])
        return ",".join(override for override in overrides if key_of(override) != "seed")

    def _needs_run(self, status: RunStatus) -> bool:
        """Whether a job starts or resumes."""
        if status.state == "failed" and status.record and status.progress is None:
            return True  # it failed before training, so for a reason outside its config
        return status.state in ("waiting", "running", "preempted", *self.options.retry)


def _warnings_of_other_code(statuses: Mapping[Path, RunStatus]) -> Iterator[str]:
    """A line for each difference between the code of this process and of existing runs."""
    by_change: dict[str, list[str]] = {}
    for path, status in statuses.items():
        for change in code_changes(status.record):
            by_change.setdefault(change, []).append(path.name)
    for change, names in by_change.items():
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        yield (
            f"{len(names)} of {len(statuses)} runs were started with other code ({change}): "
            f"{some}; to compare runs of the same code, use another sweep: hydra.sweep.dir=…"
        )


def _kept(states: Sequence[State], of: int) -> str:
    """A line on the runs that have ended earlier, and how to run the failed ones again."""
    counts = Counter(map(str, states))
    kept = ("finished", *RETRIED, "pruned")
    parts = [f"{counts[state]} {state}" for state in kept if counts[state]]
    again = ",".join(state for state in RETRIED if counts[state])
    remedy = f"; run again with sweep.retry=[{again}]" if again else ""
    return f"{' and '.join(parts)} earlier, of {of} runs{remedy}"
