"""Choose the directories that Hydra creates, and remove them if the command fails early."""

import os
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from attention_lab.training.distributed import cluster_environment


class OutputDirectories(Callback):
    """A Hydra callback that chooses a run's directory, and records which directories are new.

    Hydra creates the callback itself, so its state is in class attributes; a process runs one
    command at a time.
    """

    #: The directories of the run and of the sweep; None until they are known.
    run: ClassVar[Path | None] = None
    sweep: ClassVar[Path | None] = None
    #: Directories that did not exist before the command, innermost first.
    made: ClassVar[list[Path]] = []

    @classmethod
    def reset(cls) -> None:
        """Clear the state that an earlier command of this process has left."""
        cls.run, cls.sweep, cls.made = None, None, []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        cls, directory = type(self), Path(config.hydra.run.dir)
        if cluster_environment.rank() > 0:  # rank 0 creates the run's directory
            directory = next(filter(os.path.isdir, (directory, *directory.parents)))
        elif _is_named_by_time(config.hydra):
            cls._remember(directory.parent)
            directory = cls.run = _new_directory(directory)
            cls.made.insert(0, directory)
        else:
            cls.run = directory
            cls._remember(directory)
        with read_write(config.hydra.run), open_dict(config.hydra.run):
            config.hydra.run.dir = str(directory)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        cls = type(self)
        cls.sweep = Path(config.hydra.sweep.dir)
        cls._remember(cls.sweep)

    @classmethod
    def _remember(cls, directory: Path) -> None:
        branch = [directory, *directory.parents]
        cls.made = [path for path in branch if not os.path.exists(path)]

    @classmethod
    def discard(cls) -> None:
        """Remove the directories that the command created, unless they hold runs."""
        if cls.sweep is not None:
            found = list(cls.sweep.glob("*"))
            if {path.name for path in found} <= {"multirun.yaml", ".lock"}:
                for path in found:
                    path.unlink()
        for directory in cls.made:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _is_named_by_time(settings: DictConfig) -> bool:
    """Whether a run's directory is named by its start time, so that each run needs a new one."""
    is_typed = any("hydra.run.dir" in override for override in settings.overrides.hydra)
    unresolved = OmegaConf.to_container(settings.run, resolve=False)
    assert isinstance(unresolved, dict)
    return not is_typed and "${now:" in str(unresolved["dir"])


def _new_directory(path: Path) -> Path:
    """Make the directory ``path``; if it exists, ``path-2``, ``path-3`` and so on."""
    number, directory = 1, path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                directory.mkdir()  # atomic: of two processes, one succeeds
                return directory
            except FileExistsError:
                number += 1
                directory = path.with_name(f"{path.name}-{number}")
    except OSError:  # Hydra will try again, and report it
        return directory
