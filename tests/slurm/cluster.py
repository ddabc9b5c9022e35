"""A real SLURM cluster of two nodes on this machine, on loopback and in one directory."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
#: Ranks find each other by the names of nodes, so they are loopback addresses.
NODES = ("127.0.0.2", "127.0.0.3")
#: CPUs that a node declares, whatever this machine has.
CPUS = 2
#: Seconds to wait for anything that takes a few.
PATIENCE = 120.0

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxArraySize=4
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=10
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr={name} Port={port} CPUs={cpus}"


def lack() -> str | None:
    """The reason why SLURM cannot run here; None if it can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"no {', '.join(missing)} here; apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "SLURM's daemons start jobs of other users; only root can"
    return None


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition is true; AssertionError if it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.1)


class Cluster:
    """A running SLURM, as a context manager; nothing is left behind.

    Args:
        home: an empty directory for all its files.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes = NODES
        #: The environment variables of a process that is a client of this cluster.
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(home / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        for name in ("munge", "state", *(f"spool-{node}" for node in self.nodes)):
            (self.home / name).mkdir(mode=0o755)
        ports = _free_ports(1 + len(self.nodes))
        nodes = [
            NODE.format(name=name, port=port, cpus=CPUS)
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        config = CONFIG.format(host=_host(), home=self.home, ports=ports, nodes="\n".join(nodes))
        (self.home / "slurm.conf").write_text(config)
        key = self.home / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        try:
            files = {name: self.home / "munge" / name for name in ("key", "socket", "pid", "seed")}
            options = [f"--{name}-file={files[name]}" for name in ("key", "pid", "seed")]
            self._start("munged", *options, f"--socket={files['socket']}", "--foreground")
            eventually(files["socket"].exists, "munged")
            self._start("slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._processes_of_jobs():
            _kill(pid)
        for daemon in self._daemons.values():
            daemon.kill()  # they need not save anything
            daemon.wait()

    def start_node(self, name: str) -> None:
        """Start a node, and wait until it is ready for jobs."""
        self._start("slurmd", "-D", "-N", name, key=name)
        eventually(lambda: self.state_of(name) == "idle", f"node {name}")

    def kill_node(self, name: str) -> None:
        """Kill a node and all its processes."""
        self._daemons[name].kill()
        self._daemons.pop(name).wait()
        for pid in self._processes_of_jobs(name):
            _kill(pid)

    def state_of(self, node: str) -> str:
        """The state of a node, such as idle, mixed or down."""
        done = self._client("sinfo", "--noheader", f"--nodes={node}", "--format=%t")
        return done.stdout.strip()

    def ask(self, *command: str, cwd: Path | None = None, **environment: str) -> str:
        """The output of a SLURM command."""
        done = self._client(*command, cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def queue(self) -> dict[str, str]:
        """The state of each job that has not ended."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def hurry(self, job: str) -> None:
        """Start a requeued job at once: SLURM would wait two minutes."""
        eventually(lambda: self.queue().get(job) == "PENDING", f"job {job} to be queued again")
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def _client(
        self, *command: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def _start(self, program: str, *arguments: str, key: str | None = None) -> None:
        path = shutil.which(program, path=self.environment["PATH"])
        assert path is not None
        with (self.home / f"{key or program}.out").open("ab") as log:
            self._daemons[key or program] = subprocess.Popen(
                [path, *arguments], env=self.environment, stdout=log, stderr=log
            )

    def _processes_of_jobs(self, node: str | None = None) -> list[int]:
        """The processes that SLURM started for jobs, on one node or on all."""
        tasks = [
            pid
            for pid, environment in _environments()
            if environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
            and "SLURMD_NODENAME" in environment
            and node in (None, environment["SLURMD_NODENAME"])
        ]
        # slurmstepd hides its environment, but has the log of its node open.
        logs = {str(self.home / f"{name}.log") for name in self.nodes if node in (None, name)}
        daemons = [daemon.pid for daemon in self._daemons.values()]
        keepers = [pid for pid in _writers(logs) if pid not in daemons]
        return [*keepers, *tasks]


def _environments() -> Iterator[tuple[int, Mapping[str, str]]]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            pairs = (line.partition("=") for line in path.read_bytes().decode().split("\0"))
            yield int(path.parent.name), {name: value for name, _, value in pairs}


def _writers(files: Collection[str]) -> set[int]:
    """The processes that have any of some files open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()) in files:
                found.add(int(link.parts[2]))
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
