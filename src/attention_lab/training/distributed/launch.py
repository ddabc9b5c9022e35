"""Running a run where this process is: by itself, or as several processes on this machine.

Lightning would start the others by running this process's command line again, in which a sweep is
a sweep, and a timestamp another. Here they are given the config and the directory.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, cast

import torch

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.tracking.record_files import RunResult, read_result
from attention_lab.tracking.run_directory import RunExists, record_failure
from attention_lab.training.build import build, has_gpu
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.cluster_environment import (
    ignore_leftovers,
    is_interactive_step,
)
from attention_lab.training.distributed.workers import (
    GRACE,
    cores,
    end_with_parent,
    killer,
    outlive_readers,
    print_into,
    stop,
)
from attention_lab.training.finite import Diverged
from attention_lab.training.preemption import SIGNALS, block_signals, not_ignored, unblock_signals
from attention_lab.training.run import train

#: What is passed on to the processes of a run. Ctrl-C reaches the one that started them alone.
PASSED_ON = (signal.SIGINT, *SIGNALS)


def launch(spec: RunSpec, log: Path | None = None) -> RunResult | None:
    """Train, test and record one run, on as many ranks as it asks for.

    They are started here unless torchrun or srun has started them.

    Args:
        spec: the run.
        log: the file to which ranks that are started here print; None means where this process
            prints.

    Returns:
        The content of ``result.json``; None on ranks other than 0.

    Raises:
        ConfigError: if the config cannot work here; then nothing was written.
        RunExists: if the directory holds a finished run or another one, or is locked.
        Diverged: if the loss became NaN or infinite.
        RuntimeError: if a rank exited unexpectedly.
    """
    ignore_leftovers()
    devices, nodes = check_devices(spec.config)
    if devices * nodes == 1 or process_group.world_size() > 1:
        return train(spec)
    build(spec.config)  # so that a mistake is reported once, before any process is started
    _train_together(devices, spec, log)
    return read_result(spec.directory)


def check_devices(config: RunConfig) -> tuple[int, int]:
    """The devices on each node and the number of nodes that a run asks for.

    Raises:
        ConfigError: if they are not available here.
    """
    trainer = config.values["trainer"]
    accelerator = trainer.get("accelerator", "auto")
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    process_group.check_world_size(devices, nodes)
    if nodes > 1 and process_group.world_size() == 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: this is one machine; "
            f"{'srun --overlap' if is_interactive_step() else 'srun'}, torchrun or "
            "hydra/launcher=slurm start processes on several"
        )
    if accelerator == "gpu" and not has_gpu():
        raise ConfigError("trainer.accelerator=gpu: there is no GPU here; trainer=cpu works")
    on_gpus = accelerator != "cpu" and has_gpu()
    if process_group.world_size() > 1 and not on_gpus:
        return devices, nodes  # of a machine's cores each process may have been given its own
    number = max(1, torch.cuda.device_count()) if on_gpus else cores()
    if devices > number:
        kind = "GPU" if on_gpus else "CPU core"
        raise ConfigError(
            f"trainer.devices={devices}: there {'is' if number == 1 else 'are'} {number} "
            f"{kind}{'' if number == 1 else 's'} here"
        )
    return devices, nodes


@dataclass
class _Rank:
    """One of the processes of a run."""

    number: int
    process: BaseProcess
    #: Where it sends None once signals do not end it any more, and later what has ended it.
    messages: Connection
    #: When that was raised, and what it was.
    failure: "_Failure | None" = None


class _Failure(NamedTuple):
    when: float
    error: BaseException


def _train_together(number: int, spec: RunSpec, log: Path | None) -> None:
    """Let processes of this machine train a run, and raise what ended the first that failed."""
    # A fork server where there is one, as CUDA forbids to fork what may have used it.
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    context.set_forkserver_preload([__name__])
    threads, port = max(1, torch.get_num_threads() // number), _free_port()
    started: list[_Rank] = []
    with _Relay() as relay:
        for rank in range(number):
            receiver, sender = context.Pipe(duplex=False)
            place = _place(rank, number, port)
            process = context.Process(
                target=_train_as, args=(place, threads, sender, spec, log), name=f"rank {rank}"
            )
            process.start()
            sender.close()
            started.append(_Rank(rank, process, receiver))
        for each in started:
            _receive(each)
        relay.open(started)
        dead = _wait_for_a_death(started)
        # The first process may have more to put in order than one that is told to stop.
        _end(started, GRACE if relay.received else 3 * GRACE)
    if dead is None:
        return
    failures = [each for each in started if each.failure is not None]
    if (by := killer(dead.process)) is not None or not failures:
        message = f"process {dead.number} of {number}: {by or 'ended without a word'}"
        record_failure(spec, message)
        raise RuntimeError(message)
    _raise_cause(failures, spec, number)


def _raise_cause(failures: Sequence[_Rank], spec: RunSpec, number: int) -> NoReturn:
    """Raise what was raised first; what the first process has not recorded is recorded for it."""
    first = min(failures, key=lambda each: cast(_Failure, each.failure).when)
    error = cast(_Failure, first.failure).error
    leading = next((each.failure for each in failures if each.number == 0), None)
    if leading is not None and (first.number == 0 or _is_the_same(error, leading.error)):
        raise leading.error
    if isinstance(error, KeyboardInterrupt):
        record_failure(spec, "interrupted", "preempted")
        raise error
    message = f"process {first.number} of {number}: {type(error).__name__}: {error}"
    record_failure(spec, message)
    raise RuntimeError(message) from error


def _is_the_same(error: BaseException, other: BaseException) -> bool:
    """Whether processes have agreed on an error: not if one merely lost the other."""
    agreed = (KeyboardInterrupt, Diverged, ConfigError, RunExists)
    return type(error) is type(other) and (isinstance(error, agreed) or str(error) == str(other))


def _train_as(
    place: Mapping[str, str],
    threads: int,
    messages: Connection,
    spec: RunSpec,
    log: Path | None,
) -> None:
    """In a process of its own: train as one of the processes of a run."""
    block_signals()
    outlive_readers()
    if log is not None:
        print_into(log)
    os.setpgid(0, 0)  # so that a terminal's Ctrl-C comes once, from the process that passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    os.environ |= place
    torch.set_num_threads(threads)
    try:
        messages.send(None)
        train(spec)
    except BaseException as error:
        when = getattr(error, "when", time.monotonic())
        error.add_note(traceback.format_exc())
        messages.send(_Failure(when, _portable(error)))
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


class _Relay:
    """Passes signals on to processes while it is entered, and leaves it to them what follows."""

    def __init__(self) -> None:
        #: Signals received so far.
        self.received: list[int] = []
        self._ranks: Sequence[_Rank] = ()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive) for number in not_ignored(PASSED_ON)
            }
            block_signals()  # inherited by the fork server, which would exit otherwise
        return self

    def __exit__(self, *_: object) -> None:
        unblock_signals()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def open(self, ranks: Sequence[_Rank]) -> None:
        """From now on pass signals on to these ranks, and those received before now."""
        early = list(self.received)
        self._ranks = ranks
        for number in early:
            self._pass_on(number)
        unblock_signals()

    def _receive(self, number: int, _: object) -> None:
        self.received.append(number)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for each in self._ranks:
            if each.process.is_alive() and each.process.pid is not None:
                os.kill(each.process.pid, number)


def _wait_for_a_death(started: Sequence[_Rank]) -> _Rank | None:
    """The process that was the first to end badly, None when all have ended well."""
    running = list(started)
    while running:
        wait([*(each.process.sentinel for each in running), *(r.messages for r in running)])
        for each in list(running):
            if each.messages.poll():
                _receive(each)
            if not each.process.is_alive():
                running.remove(each)
                if each.process.exitcode:
                    return each
    return None


def _end(started: Sequence[_Rank], patience: float) -> None:
    """Take in what processes have to say that lose one of them, then end them."""
    deadline = time.monotonic() + patience
    while any(each.process.is_alive() for each in started) and time.monotonic() < deadline:
        for each in started:
            if each.messages.poll(0.02):
                _receive(each)
    stop([each.process for each in started], 0)
    for each in started:
        if each.messages.poll():
            _receive(each)


def _receive(each: _Rank) -> None:
    """Take in a message of a process; one that is gone has closed its end."""
    try:
        message = each.messages.recv()
    except EOFError:
        each.process.join()
        return
    if message is not None:
        each.failure = message
