"""Launching a run on this machine: in this process, or on several ranks that are started here.

Lightning starts ranks by running the command line again, which would repeat a whole sweep and
create another run directory. Here each rank gets the run's spec instead.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.printing import counted, warning_line
from attention_lab.tracking.record_files import read_result
from attention_lab.tracking.record_schema import RunResult
from attention_lab.tracking.run_directory import RunExists, record_failure
from attention_lab.training.build import build, has_gpu
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.cluster_environment import (
    ignore_leftovers,
    is_interactive_step,
)
from attention_lab.training.distributed.signal_relay import SignalRelay
from attention_lab.training.distributed.workers import (
    GRACE,
    cores,
    end_with_parent,
    ignore_output_errors,
    killed_by,
    print_into,
    reserve_open_files,
    shorten_socket_paths,
    stop,
)
from attention_lab.training.finite import Diverged
from attention_lab.training.preemption import block_signals
from attention_lab.training.run import train


def launch(spec: RunSpec, log: Path | None = None) -> RunResult | None:
    """Train, test and record one run, on as many ranks as its config requests.

    The ranks are started here unless torchrun or srun has started them.

    Args:
        spec: the run.
        log: the file for the output of ranks that are started here; None means the output of this
            process.

    Returns:
        The content of ``result.json``; None on ranks other than 0, and for a ``fast_dev_run``.

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
    reserve_open_files(devices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rank 0 gives them
        build(spec.config)  # so that a mistake is reported once, before any process is started
    _train_on_ranks(devices, spec, log)
    dev_run = spec.config.values["trainer"].get("fast_dev_run")
    return None if dev_run else read_result(spec.directory)


def check_devices(config: RunConfig) -> tuple[int, int]:
    """The devices per node and the number of nodes that a run requests.

    Raises:
        ConfigError: if they are not available here.
    """
    trainer = config.values["trainer"]
    accelerator = trainer.get("accelerator", "auto")
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    process_group.check_world_size(devices, nodes)
    if nodes > 1 and process_group.world_size() == 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: this command starts processes on one machine only; use "
            f"{'srun --overlap' if is_interactive_step() else 'srun'}, torchrun or "
            "hydra/launcher=slurm"
        )
    if accelerator == "gpu" and not has_gpu():
        raise ConfigError("trainer.accelerator=gpu: no GPU is available; use trainer=cpu")
    on_gpus = accelerator != "cpu" and has_gpu()
    if process_group.world_size() > 1 and not on_gpus:
        return devices, nodes  # the launcher may allocate cores to each process
    number = max(1, torch.cuda.device_count()) if on_gpus else cores()
    if devices > number:
        available = counted(number, "GPU" if on_gpus else "CPU core")
        raise ConfigError(
            f"trainer.devices={devices}: only {available} available; use trainer.devices={number}"
        )
    return devices, nodes


@dataclass
class _Rank:
    """A rank that was started here."""

    number: int
    process: BaseProcess
    #: Receives None once the rank blocks signals, and a failure if an exception ends it.
    messages: Connection
    failure: "_Failure | None" = None


class _Failure(NamedTuple):
    """An exception that ended a rank, and when it was raised (``time.monotonic``)."""

    when: float
    error: BaseException


def _train_on_ranks(number: int, spec: RunSpec, log: Path | None) -> None:
    """Train a run on ranks of this machine; raise the error of the first that failed."""
    # Not fork: CUDA does not work in a fork of a process that has used it.
    known = multiprocessing.get_all_start_methods()
    shorten_socket_paths()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    context.set_forkserver_preload([__name__])
    threads, port = max(1, torch.get_num_threads() // number), _free_port()
    started: list[_Rank] = []
    with SignalRelay() as relay:
        for rank in range(number):
            receiver, sender = context.Pipe(duplex=False)
            environment = _environment(rank, number, port)
            process = context.Process(
                target=_train_rank,
                args=(environment, threads, sender, spec, log),
                name=f"rank {rank}",
            )
            process.start()
            sender.close()
            started.append(_Rank(rank, process, receiver))
        for each in started:
            _receive(each)
        relay.open([each.process for each in started])
        failed = _wait_for_failure(started)
        # After an error, rank 0 takes longer to exit than after a signal.
        _stop(started, GRACE if relay.received else 3 * GRACE)
    if failed is None:
        return
    failures = [each for each in started if each.failure is not None]
    if (killed := killed_by(failed.process)) is not None or not failures:
        message = f"process {failed.number} of {number}: {killed or 'exited unexpectedly'}"
        record_failure(spec, message)
        raise RuntimeError(message)
    _raise_cause(failures, spec, number)


def _raise_cause(failures: Sequence[_Rank], spec: RunSpec, number: int) -> NoReturn:
    """Raise the first error, and record it if rank 0 has not."""
    first = min(failures, key=lambda each: cast(_Failure, each.failure).when)
    error = cast(_Failure, first.failure).error
    of_rank_zero = next((each.failure for each in failures if each.number == 0), None)
    if of_rank_zero and (first.number == 0 or _is_same(error, of_rank_zero.error)):
        raise of_rank_zero.error
    if isinstance(error, KeyboardInterrupt):
        record_failure(spec, "interrupted", "preempted")
        raise error
    message = f"process {first.number} of {number}: {type(error).__name__}: {error}"
    record_failure(spec, message)
    raise RuntimeError(message) from error


def _is_same(error: BaseException, other: BaseException) -> bool:
    """Whether two ranks raised the same error, and not only an error of the connection to it."""
    agreed = (KeyboardInterrupt, Diverged, ConfigError, RunExists)
    return type(error) is type(other) and (isinstance(error, agreed) or str(error) == str(other))


def _train_rank(
    environment: Mapping[str, str],
    threads: int,
    messages: Connection,
    spec: RunSpec,
    log: Path | None,
) -> None:
    """The main function of a rank's process."""
    block_signals()
    ignore_output_errors()
    if log is not None:
        print_into(log)
    os.setpgid(0, 0)  # a terminal's Ctrl-C then comes once, from the relay
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    os.environ |= environment
    torch.set_num_threads(threads)
    warnings.formatwarning = warning_line
    if environment["RANK"] != "0":
        warnings.simplefilter("ignore")  # rank 0 gives the same warnings
    try:
        messages.send(None)
        train(spec)
    except BaseException as error:
        when = getattr(error, "when", time.monotonic())
        error.add_note(traceback.format_exc())
        messages.send(_Failure(when, _picklable(error)))
        raise SystemExit(1) from None


def _picklable(error: BaseException) -> BaseException:
    """The error, or a RuntimeError with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _environment(rank: int, number: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for a rank on one machine."""
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


def _wait_for_failure(started: Sequence[_Rank]) -> _Rank | None:
    """Wait for the first rank that exits with an error; None if all exit without."""
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


def _stop(started: Sequence[_Rank], patience: float) -> None:
    """Receive the failures of the remaining ranks, which have lost a peer, then kill them."""
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
    """Receive a message from a rank; if it has closed its end, wait until it has exited."""
    try:
        message = each.messages.recv()
    except EOFError:
        each.process.join()
        return
    if message is not None:
        each.failure = message
