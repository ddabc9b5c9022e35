"""Mutated commands of `attention-lab train`, drawn from the real config tree."""

import functools
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from attention_lab.config.compose import composed, config_directory, group_options
from attention_lab.config.flatten import flatten
from tests.fuzz.forked import Trial
from tests.fuzz.mutations import NO_NUMBERS, VALUES, YAML, damaged, misspelt

#: The exit codes that are right for a command.
Codes = frozenset[int]
#: Flags after which a valid command does not train.
READING = ("--cfg", "--info", "--help", "--version", "--hydra-help", "--dry-run", "-h", "-i", "-c")
#: The command is invalid, it is valid, or it may be either.
REFUSED, ACCEPTED, EITHER = frozenset({2}), frozenset({0}), frozenset({0, 2})
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
#: Keys whose values TINY or BASES change, and nodes that are interpolations of others.
CHANGED = (
    *("model.d_model", "trainer.max_steps", "data.examples", "data.evaluation_examples"),
    *("model.self_attention", "model.cross_attention", "logger"),
)
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
#: Flags, and the exit codes that are right with each.
FLAGS: dict[str, Codes] = {
    **dict.fromkeys(
        ("--nosuch", "--config-dir=nope", "--config-dir=", "--nosuch=x", "-x"), REFUSED
    ),
    **dict.fromkeys(("--config-dir=labels.tsv", "--config-name=nope", "--config-name="), REFUSED),
    **dict.fromkeys(("--config-path=nope", "--cfg=nope", "--info=x", "--resolve", "-"), REFUSED),
    **dict.fromkeys(("--multirun=x", "---", "--from=nope", "--from=", "--dry-run=x"), REFUSED),
    **dict.fromkeys(("--from=labels.tsv", "--help=x", "--shell-completion", "-cd=x"), REFUSED),
    **dict.fromkeys(("--shell-completion=install=bash", "-h=x", "--experimental-rerun=x"), REFUSED),
    **dict.fromkeys(("--extend=x", "--extend", "-i=x"), REFUSED),
    **dict.fromkeys(
        ("--cfg=job", "--cfg=all", "--info", "--info=defaults", "--info=all"), ACCEPTED
    ),
    **dict.fromkeys(("--run", "-m", "--version", "--help"), ACCEPTED),
    # These take the argument after them, or say nothing.
    **dict.fromkeys(("--config-dir", "--config-name", "--cfg", "--package=nope"), EITHER),
    **dict.fromkeys(("--package", "--", "--from", "-cn", "-c", "-cd", "--hydra-help"), EITHER),
}
DIRECTORIES = ("hydra.run.dir", "hydra.sweep.dir", "hydra.job.name")
#: Variables that make no command fail.
HARMLESS = {
    *("OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "COLUMNS", "TERM", "PYTHONPATH", "NO_COLOR"),
    *("WORLD_SIZE", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES"),
}
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


@dataclass
class Draft:
    """A command that is being mutated."""

    random: Random
    #: A valid command: a dataset, a model for it, and sometimes an option of another group.
    base: tuple[str, ...]
    arguments: list[str] = field(init=False)
    files: dict[str, bytes | None] = field(default_factory=lambda: dict(FILES))
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arguments = [*self.base, *TINY]

    @property
    def keys(self) -> dict[str, Any]:
        """The dotted keys of its config, with their values."""
        return keys_of(self.base)

    def key(self) -> tuple[str, Any]:
        """A key of its config, with its value."""
        return self.random.choice(list(self.keys.items()))


@functools.cache
def keys_of(base: tuple[str, ...]) -> dict[str, Any]:
    """The dotted keys of a composed config, with their values."""
    return dict(flatten(composed(base)))


@functools.cache
def bases() -> list[tuple[str, ...]]:
    """Some valid commands; composing each takes a good part of a second."""
    random = Random(0)
    with_options = []
    for base in BASES * 3:
        group = random.choice(GROUPS[:3])
        with_options.append((*base, f"{group}={random.choice(sorted(group_options(group)))}"))
    return [*BASES, *with_options]


def draw_command(random: Random) -> Trial:
    """A command of `attention-lab train` with one mutation, or two."""
    draft = Draft(random, random.choice(bases()))
    number = random.choice([1, 1, 1, 2])
    expected = [random.choice(KINDS)(draft) for _ in range(number)]
    random.random() < 0.2 and draft.arguments.append("--dry-run")
    arguments = [each.replace("\x00", "") for each in draft.arguments]
    return Trial(
        ["train", *arguments],
        draft.files,
        draft.environment,
        expected[0] if number == 1 else EITHER,  # the second may undo the first
        trains=not any(each.startswith(READING) for each in arguments),
    )


def shown(value: Any) -> str:
    """A value of a key, as typed."""
    return "null" if value is None else str(value).lower() if type(value) is bool else str(value)


def is_number(value: Any) -> bool:
    """Whether a key has a number, true or false."""
    return isinstance(value, int | float)


def _mutate_value(draft: Draft) -> Codes:
    key, value = draft.key()
    new = draft.random.choice(VALUES)
    draft.arguments.append(f"{key}={new}")
    return REFUSED if is_number(value) and new in NO_NUMBERS else EITHER


def _repeat_value(draft: Draft) -> Codes:
    """Set a key to the value that it has."""
    key, value = draft.key()
    prefix = draft.random.choice(["", "++"])
    draft.arguments.append(f"{prefix}{key}={shown(value)}")
    is_plain = value is None or is_number(value) or re.fullmatch(r"[\w.]+", str(value))
    return ACCEPTED if is_plain and not key.startswith(CHANGED) else EITHER


def _mutate_key(draft: Draft) -> Codes:
    key, value = draft.key()
    wrong = misspelt(draft.random, key)
    draft.arguments.append(f"{wrong}={shown(value)}")
    is_wrong = wrong.strip() not in draft.keys and not wrong.startswith("~")
    return REFUSED if is_wrong else EITHER


def _mutate_node(draft: Draft) -> Codes:
    """Replace a node of the config, such as a model or a mask, by a value or an unknown key."""
    random = draft.random
    parts = draft.key()[0].split(".")
    node = ".".join(parts[: random.randrange(1, len(parts) + 1)])
    value = random.choice(VALUES)
    forms = [f"{node}={value}", f"+{node}.x={value}", f"{node}._target_={value}"]
    draft.arguments.append(random.choice(forms))
    return EITHER


def _mutate_prefix(draft: Draft) -> Codes:
    random = draft.random
    key, value = draft.key()
    prefix = random.choice(["+", "~", "~~", "+++", "+~", "-", "!", "@", "=", ".", " "])
    end = random.choice(["", "=", f"={value}", "==", f" = {value}", f":{value}", "=1=2"])
    draft.arguments.append(f"{prefix}{key}{end}")
    return EITHER if prefix in ("~", "+", " ") else REFUSED


def _mutate_equals(draft: Draft) -> Codes:
    key, _ = draft.key()
    wrong = [key, f"={key}", f"{key} 1", f"{key}:1", f"{key}=1,", "=", ""]
    argument = draft.random.choice([*wrong, f"{key}=", f"{key}= 1"])
    draft.arguments.append(argument)
    return REFUSED if argument in wrong else EITHER


def _mutate_group(draft: Draft) -> Codes:
    random = draft.random
    groups = [path.relative_to(config_directory()) for path in config_directory().rglob("*")]
    group = str(random.choice([each for each in groups if not each.suffix]))
    options = sorted(group_options(group)) or ["x"]
    option = random.choice(options)
    package = random.choice(["x", "model.hybrid.a", "seed", "_global_", "attention.x", ""])
    wrong = misspelt(random, option)
    forms = [
        *(f"{group}={value}" for value in random.sample(VALUES, 4)),
        f"{group}={wrong}",
        f"{group}={wrong}",
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
    chosen = random.choices(forms, k=random.choice([1, 1, 2]))
    draft.arguments += chosen
    is_misspelt = chosen == [f"{group}={wrong}"] and not set("/. ") & set(wrong)
    return REFUSED if is_misspelt and wrong not in options else EITHER


def _mutate_setting(draft: Draft) -> Codes:
    prefix = draft.random.choice(["", "", "+", "++", "~"])
    setting = draft.random.choice(SETTINGS)
    draft.arguments.append(f"{prefix}{setting}={draft.random.choice(VALUES)}")
    draft.random.random() < 0.5 and draft.arguments.append("-m")
    return EITHER | {1} if setting in DIRECTORIES else EITHER


def _mutate_sweep(draft: Draft) -> Codes:
    random = draft.random
    key = random.choice([*draft.keys, "attention", "optimizer", "seed"])
    values = random.choices(VALUES, k=random.choice([1, 2, 3]))
    draft.arguments += [f"{key}={','.join(values)}", "-m"]
    if random.random() < 0.3:
        draft.arguments.append(f"sweep.tune={random.choice([*draft.keys, 'lr', 'nope'])}")
    is_wrong = is_number(draft.keys.get(key)) and set(values) <= NO_NUMBERS
    return REFUSED if is_wrong else EITHER


def _mutate_flags(draft: Draft) -> Codes:
    flag = draft.random.choice(list(FLAGS))
    draft.arguments.insert(draft.random.randrange(len(draft.arguments) + 1), flag)
    return FLAGS[flag]


def _mutate_yaml(draft: Draft) -> Codes:
    """Choose an option of the user's whose file is damaged."""
    random, expected = draft.random, EITHER
    group = random.choice(["attention", "attention/mask", "attention/score", *GROUPS[1:], "model"])
    content = shipped = random.choice(sorted(group_options(group).values())).read_bytes()
    if random.random() < 0.5:
        content = damaged(random, content)
    else:
        content = random.choice(YAML).encode()
        expected = EITHER if group == "logger" else REFUSED  # a logger of no keys is none
    if random.random() < 0.2:
        content, expected = shipped + b"\n" + content, EITHER
    name = random.choice(["mine", "mine", "mine", "_mine", "mine.x", "my own", "ü", "1"])
    is_directory = random.random() < 0.05
    draft.files[f"own/{group}/{name}.yaml"] = None if is_directory else content
    option = shlex.quote(name) if " " in name else name
    draft.arguments += ["--config-dir", "own", f"{group}={option}"]
    return REFUSED if is_directory else expected


def _mutate_data_file(draft: Draft) -> Codes:
    """Damage or rename the file of the data."""
    random = draft.random
    if not any(each.startswith(("data.train=", "data.path=")) for each in draft.base):
        draft.base = random.choice(BASES[3:])
        draft.__post_init__()
    key, _, name = draft.base[2].partition("=")
    content = draft.files[name] or b""
    for _ in range(random.choice([1, 3])):
        content = damaged(random, content)
    draft.files[name] = content
    if random.random() < 0.5:
        odd = random.choice(
            ["my data (1).tsv", "a,b.tsv", "~/x.tsv", "x'y.tsv", "a=b.tsv", "a:b", "$x"]
        )
        draft.files.pop(name) if random.random() < 0.5 else None
        draft.files[odd] = content
        draft.arguments.append(random.choice([f"{key}={odd}", f"{key}='{odd}'", f"{key}=[{odd}]"]))
    return EITHER


def _mutate_environment(draft: Draft) -> Codes:
    name = draft.random.choice(list(ENVIRONMENT))
    draft.environment[name] = draft.random.choice(ENVIRONMENT[name])
    if draft.random.random() < 0.5:
        draft.arguments.append("logger=wandb")
    if draft.random.random() < 0.3:
        draft.arguments += ["-m", "seed=1,2"]
    return ACCEPTED if name in HARMLESS else EITHER


KINDS: tuple[Callable[[Draft], Codes], ...] = (
    *(_mutate_value, _mutate_value, _mutate_key, _mutate_key, _mutate_node, _mutate_prefix),
    *(_mutate_equals, _mutate_group, _mutate_group, _mutate_setting, _mutate_setting),
    *(_mutate_sweep, _mutate_flags, _mutate_yaml, _mutate_yaml, _mutate_data_file),
    *(_mutate_environment, _repeat_value, _repeat_value),
)
