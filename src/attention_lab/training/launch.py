"""Running a run where this process is: by itself, or as several processes on this machine.

Lightning would start the others by running this process's command line again, in which a sweep is
a sweep, and a timestamp another. Here they are given the config and the directory.
"""

import json
import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_lab.recording.run_directory import record_death
from attention_lab.training import ranks
from attention_lab.training.building import build, from_anywhere, has_gpu
from attention_lab.training.children import GRACE, cores, end_with_parent, killer, print_into, stop
from attention_lab.training.nodes import Config, ConfigError
from attention_lab.training.run import train
from attention_lab.training.sections import check

#: What is passed on to the processes of a run. Ctrl-C reaches the one that started them alone.
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def launch(
    config: Config,
    directory: Path,
    overrides: Sequence[str],
    group: str | None = None,
    log: Path | None = None,
) -> dict[str, Any]:
    """Train, test and record one run, by as many processes as it wants.

    They are started here unless that has been done: by torchrun, or by SLURM's srun.

    Args:
        config: the resolved config.
        directory: the run's directory; made here.
        overrides: what the user asked for, as ``key=value``.
        group: the sweep that the run belongs to; None means the directory's parent.
        log: the file for what processes print that are started here; None means where this one
            prints.

    Returns:
        What ``result.json`` holds; nothing in processes other than the first.

    Raises:
        ConfigError: if the config cannot work here; then nothing was written.
        RunExists: if the directory holds a run that has finished, another run, or one at which
            another process is at work.
        Diverged: if the loss stopped being a number.
        RuntimeError: if one of several processes has ended without a word.
    """
    check(config)
    devices, nodes = check_devices(config)
    if devices * nodes == 1 or ranks.started() > 1:
        return train(config, directory, overrides, group)
    build(config)  # so that a mistake is said once, and before any process is started
    _train_together(devices, (config, directory, overrides, group), log)
    result: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return result


def check_devices(config: Config) -> tuple[int, int]:
    """The processes on each machine that a run wants, and the machines.

    Raises:
        ConfigError: if it cannot have them here.
    """
    trainer = config["trainer"]
    accelerator = trainer.get("accelerator", "auto")
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    ranks.check_number(devices, nodes)
    if nodes > 1 and ranks.started() == 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: this is one machine; srun, torchrun or "
            "hydra/launcher=slurm start processes on several"
        )
    if accelerator == "gpu" and not has_gpu():
        raise ConfigError("trainer.accelerator=gpu: there is no GPU here; trainer=cpu works")
    on_gpus = accelerator != "cpu" and has_gpu()
    number = max(1, torch.cuda.device_count()) if on_gpus else cores()
    if devices > number:
        kind = "GPU" if on_gpus else "CPU core"
        raise ConfigError(
            f"trainer.devices={devices}: there {'is' if number == 1 else 'are'} {number} "
            f"{kind}{'' if number == 1 else 's'} here"
        )
    return devices, nodes


#: What :func:`attention_lab.training.run.train` takes.
_Run = tuple[Config, Path, Sequence[str], str | None]


class _Rank(NamedTuple):
    """One of the processes of a run."""

    number: int
    process: BaseProcess
    #: Where it sends the exception that ended it.
    errors: Connection


def _train_together(number: int, run: _Run, log: Path | None) -> None:
    """Let processes of this machine train a run, and raise what ended the first that failed."""
    config, directory, overrides, _ = run
    # A fork server where there is one, as CUDA forbids to fork what may have used it.
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    context.set_forkserver_preload([__name__])
    threads, port = max(1, torch.get_num_threads() // number), _free_port()
    started: list[_Rank] = []
    with _signals_passed_on(started):
        for rank in range(number):
            receiver, sender = context.Pipe(duplex=False)
            place = _place(rank, number, port)
            process = context.Process(
                target=_train_as, args=(place, threads, sender, run, log), name=f"rank {rank}"
            )
            process.start()
            sender.close()
            started.append(_Rank(rank, process, receiver))
        first = _first_failed(started)
        # The first process may have more to put in order than a job that is told to stop.
        stop([each.process for each in started], 3 * GRACE)
    if first is None:
        return
    error, leading = _error_of(first), _error_of(started[0])
    if error is not None and type(error) is type(leading):
        raise leading  # they agreed on it, and the first one has recorded it
    said = killer(first.process) or f"{type(error).__name__}: {error}"
    if first.number == 0 and error is not None:
        raise error
    message = f"process {first.number} of {number}: {said}"
    record_death(directory, from_anywhere(config), overrides, message)
    raise RuntimeError(message)


def _train_as(
    place: Mapping[str, str],
    threads: int,
    errors: Connection,
    run: _Run,
    log: Path | None,
) -> None:
    """In a process of its own: train as one of the processes of a run."""
    if log is not None:
        print_into(log)
    os.setpgid(0, 0)  # so that a terminal's Ctrl-C comes once, from the process that passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    os.environ |= place
    torch.set_num_threads(threads)
    try:
        train(*run)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        errors.send(_portable(error))
        raise SystemExit(1) from None


def _portable(error: BaseException) -> BaseException:
    """An error as another process can receive it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _place(rank: int, number: int, port: int) -> dict[str, str]:
    """What torchrun would tell one of the processes of one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _signals_passed_on(started: Sequence[_Rank]) -> Iterator[None]:
    """Pass signals on to processes, and leave it to them what follows."""

    def pass_on(number: int, _: object) -> None:
        for each in started:
            if each.process.is_alive() and each.process.pid is not None:
                os.kill(each.process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failed(started: Sequence[_Rank]) -> _Rank | None:
    """The process that was the first to fail, None when all have ended well."""
    running = list(started)
    while running:
        wait([each.process.sentinel for each in running])
        for each in [each for each in running if not each.process.is_alive()]:
            running.remove(each)
            if each.process.exitcode:
                return each
    return None


def _error_of(rank: _Rank) -> BaseException | None:
    try:
        error: BaseException | None = rank.errors.recv() if rank.errors.poll() else None
    except EOFError:
        return None
    return error
