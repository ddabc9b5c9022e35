"""Mutated commands of `attention-lab train`, drawn from the real config tree."""

import functools
import shlex
from random import Random
from typing import Any

from attention_lab.config.compose import composed, config_directory, group_options
from attention_lab.config.flatten import flatten
from tests.fuzz.forked import Trial
from tests.fuzz.mutations import VALUES, YAML, damaged, misspelt

#: Data and a model for it, small enough to build in milliseconds.
BASES = (
    ("data=parity", "model=encoder_classifier", "data.examples=64", "data.evaluation_examples=32"),
    ("data=copy", "model=encoder_decoder", "data.examples=64", "data.evaluation_examples=32"),
    ("data=induction", "model=decoder", "data.examples=64", "data.evaluation_examples=32"),
    ("data=labels", "model=encoder_classifier", "data.train=labels.tsv"),
    ("data=pairs", "model=prefix_decoder", "data.train=pairs.tsv"),
    ("data=text", "model=decoder", "data.path=text.txt"),
)
TINY = ("model.d_model=16", "logger=csv", "trainer.max_steps=1")
#: Groups whose options fit any data.
GROUPS = ("attention", "optimizer", "scheduler", "trainer", "logger", "parameter_groups")
LABELS = "".join(f"text {number % 7} of {number}\t{'ab'[number % 2]}\n" for number in range(80))
FILES: dict[str, bytes | None] = {
    "labels.tsv": LABELS.encode(),
    "pairs.tsv": LABELS.replace("\ta", "\tone").replace("\tb", "\ttwo").encode(),
    "text.txt": LABELS.encode() * 20,
}
SETTINGS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.job.num"),
    *(
        "hydra.output_subdir",
        "hydra.launcher.parallel",
        "hydra.launcher.threads",
        "hydra.job.chdir",
    ),
    *("hydra.launcher.retries", "hydra.launcher.time_limit", "hydra.launcher.gpus_per_job"),
    *("hydra.mode", "hydra.searchpath", "hydra.verbose", "hydra.callbacks", "hydra.job.env_set"),
    *("hydra.job_logging", "hydra.sweeper.max_batch_size", "hydra.sweeper.params", "hydra.help"),
    *("sweep.tune", "sweep.grid", "sweep.seeds", "sweep.retry", "sweep", "hydra", "hydra/launcher"),
    *("hydra/sweeper", "hydra/job_logging", "hydra.launcher", "hydra.sweeper", "hydra.runtime.cwd"),
)
FLAGS = (
    *("--nosuch", "--config-dir=nope", "--config-dir=", "--config-dir", "--config-dir=labels.tsv"),
    *("--config-name=nope", "--config-name", "--config-name=", "--config-path=nope", "--cfg"),
    *("--cfg=nope", "--cfg=job", "--cfg=all", "--package=nope", "--package", "--info", "--info=x"),
    *("--info=defaults", "--resolve", "--run", "--multirun=x", "-x", "-", "--", "---", "--from"),
    *("--from=nope", "--from=", "--from=labels.tsv", "--dry-run=x", "--hydra-help", "--help=x"),
    *("--shell-completion", "--shell-completion=install=bash", "-m", "-cd", "-cn", "-c", "-h=x"),
    *("--experimental-rerun=x", "--extend=x", "--extend", "--version", "--info=all", "-i=x"),
)
ENVIRONMENT = {
    "WANDB_MODE": ("ofline", "Disabled", "", "online", "1", "dryrun", "\udcff", "offline"),
    "WANDB_PROJECT": ("", "a/b", "x" * 300, "\n"),
    "WANDB_BASE_URL": ("nope", "", "http://", "http://[", "127.0.0.1:1"),
    "WANDB_API_KEY": ("short", "", "x" * 1000),
    "OMP_NUM_THREADS": ("x", "", "-1", "0", "1.5", "9" * 30),
    "CUDA_VISIBLE_DEVICES": ("x", "", "-1", "99"),
    "WORLD_SIZE": ("x", "", "-1", "0", "3"),
    "RANK": ("x", "", "-1", "3"),
    "LOCAL_RANK": ("x", "", "-1", "3"),
    "SLURM_JOB_ID": ("x", "", "-1"),
    "SLURM_NTASKS": ("x", "", "-1", "3"),
    "SLURM_PROCID": ("x", "", "-1", "3"),
    "XDG_CACHE_HOME": ("", "labels.tsv", "/proc/x", "x" * 300, "~"),
    "HOME": ("", "nope", "/proc", "~"),
    "TMPDIR": ("", "nope", "labels.tsv", "/tmp/" + "x" * 85),
    "COLUMNS": ("x", "", "-1", "0", "1", "9" * 30),
    "TERM": ("", "dumb", "x"),
    "PYTHONPATH": (".", "nope", ":", "labels.tsv"),
    "NO_COLOR": ("", "x"),
    "NETRC": ("labels.tsv", "nope", "/proc"),
}


@functools.cache
def keys_of(base: tuple[str, ...]) -> dict[str, Any]:
    """The dotted keys of a composed config, with their values."""
    return dict(flatten(composed(base)))


def draw_base(random: Random) -> tuple[str, ...]:
    """A valid command: a dataset, a model for it, and sometimes an option of another group."""
    base = random.choice(BASES)
    if random.random() < 0.4:
        group = random.choice(GROUPS[:3])
        base = (*base, f"{group}={random.choice(sorted(group_options(group)))}")
    return base


def draw_command(random: Random) -> Trial:
    """A command of `attention-lab train` with one mutation, or two."""
    base, files = list(draw_base(random)), dict(FILES)
    environment: dict[str, str] = {}
    arguments = [*base, *TINY]
    for _ in range(random.choice([1, 1, 1, 2])):
        kind = random.choice(KINDS)
        kind(random, tuple(base), arguments, files, environment)
    random.random() < 0.2 and arguments.append("--dry-run")
    arguments = [each.replace("\x00", "") for each in arguments]
    return Trial(["train", *arguments], files, environment)


def _mutate_value(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    arguments.append(f"{random.choice(list(keys_of(base)))}={random.choice(VALUES)}")


def _mutate_key(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    key, value = random.choice(list(keys_of(base).items()))
    shown = "null" if value is None else str(value).lower()
    arguments.append(f"{misspelt(random, key)}={shown}")


def _mutate_node(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    """Replace a node of the config, such as a model or a mask, by a value or an unknown key."""
    key = random.choice(list(keys_of(base)))
    parts = key.split(".")
    node = ".".join(parts[: random.randrange(1, len(parts) + 1)])
    value = random.choice(VALUES)
    arguments.append(
        random.choice([f"{node}={value}", f"+{node}.x={value}", f"{node}._target_={value}"])
    )


def _mutate_prefix(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    key, value = random.choice(list(keys_of(base).items()))
    prefix = random.choice(["+", "++", "~", "~~", "+++", "+~", "-", "!", "@", "=", ".", " "])
    end = random.choice(["", "=", f"={value}", "==", f" = {value}", f":{value}", "=1=2"])
    arguments.append(f"{prefix}{key}{end}")


def _mutate_equals(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    key = random.choice(list(keys_of(base)))
    forms = [key, f"{key}=", f"={key}", f"{key} 1", f"{key}:1", f"{key}= 1", f"{key}=1,", "=", ""]
    arguments.append(random.choice(forms))


def _mutate_group(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    groups = [path.relative_to(config_directory()) for path in config_directory().rglob("*")]
    group = str(random.choice([each for each in groups if not each.suffix]))
    options = sorted(group_options(group)) or ["x"]
    option = random.choice(options)
    package = random.choice(["x", "model.hybrid.a", "seed", "_global_", "attention.x", ""])
    forms = [
        *(f"{group}={value}" for value in random.sample(VALUES, 4)),
        f"{group}={misspelt(random, option)}",
        f"{misspelt(random, group)}={option}",
        f"{group}={option},{random.choice(options)}",
        f"{group}=[{option},{random.choice(options)}]",
        f"+{group}={option}",
        f"~{group}",
        f"~{group}={option}",
        f"{group}@x={option}",
        f"+{group}@{package}={option}",
        f"{group.replace('/', '.')}={option}",
        f"{group}={option}",
    ]
    arguments += random.choices(forms, k=random.choice([1, 1, 2]))


def _mutate_setting(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    prefix = random.choice(["", "", "+", "++", "~"])
    setting = random.choice(SETTINGS)
    arguments.append(f"{prefix}{setting}={random.choice(VALUES)}")
    random.random() < 0.5 and arguments.append("-m")


def _mutate_sweep(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    key = random.choice([*keys_of(base), "attention", "optimizer", "seed"])
    values = random.choices(VALUES, k=random.choice([1, 2, 3]))
    arguments += [f"{key}={','.join(values)}", "-m"]
    if random.random() < 0.3:
        arguments.append(f"sweep.tune={random.choice([*keys_of(base), 'lr', 'nope'])}")


def _mutate_flags(random: Random, base: tuple[str, ...], arguments: list[str], *_: Any) -> None:
    arguments.insert(random.randrange(len(arguments) + 1), random.choice(FLAGS))
    if random.random() < 0.2:
        arguments[:] = arguments[-1:]


def _mutate_yaml(
    random: Random,
    base: tuple[str, ...],
    arguments: list[str],
    files: dict[str, bytes | None],
    _: Any,
) -> None:
    """Choose an option of the user's whose file is damaged."""
    group = random.choice(["attention", "attention/mask", "attention/score", *GROUPS[1:], "model"])
    shipped = random.choice(sorted(group_options(group).values()))
    if random.random() < 0.5:
        content = damaged(random, shipped.read_bytes())
    else:
        content = random.choice(YAML).encode()
    if random.random() < 0.2:
        content = shipped.read_bytes() + b"\n" + content
    name = random.choice(["mine", "mine", "mine", "_mine", "mine.x", "my own", "ü", "1"])
    file = f"own/{group}/{name}.yaml"
    files[file] = content
    if random.random() < 0.05:
        files[file] = None
    arguments += ["--config-dir", "own", f"{group}={shlex.quote(name) if ' ' in name else name}"]


def _mutate_data_file(
    random: Random,
    base: tuple[str, ...],
    arguments: list[str],
    files: dict[str, bytes | None],
    _: Any,
) -> None:
    """Damage or rename the file of the data."""
    used = next((each for each in base if each.startswith(("data.train=", "data.path="))), None)
    if used is None:
        return
    key, _, name = used.partition("=")
    content = files[name] or b""
    for _ in range(random.choice([1, 3])):
        content = damaged(random, content)
    files[name] = content
    if random.random() < 0.5:
        odd = random.choice(
            ["my data (1).tsv", "a,b.tsv", "~/x.tsv", "x'y.tsv", "a=b.tsv", "a:b", "$x"]
        )
        files.pop(name) if random.random() < 0.5 else None
        files[odd] = content
        arguments.append(random.choice([f"{key}={odd}", f"{key}='{odd}'", f"{key}=[{odd}]"]))


def _mutate_environment(
    random: Random, base: Any, arguments: list[str], files: Any, environment: dict[str, str]
) -> None:
    name = random.choice(list(ENVIRONMENT))
    environment[name] = random.choice(ENVIRONMENT[name])
    if random.random() < 0.5:
        arguments.append("logger=wandb")
    if random.random() < 0.3:
        arguments += ["-m", "seed=1,2"]


KINDS = (
    *(_mutate_value, _mutate_value, _mutate_key, _mutate_key, _mutate_node, _mutate_prefix),
    *(_mutate_equals, _mutate_group, _mutate_group, _mutate_setting, _mutate_setting),
    *(_mutate_sweep, _mutate_flags, _mutate_yaml, _mutate_yaml, _mutate_data_file),
    _mutate_environment,
)
