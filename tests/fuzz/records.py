"""Mutated record files of runs and sweeps, and commands that read them."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.commands import EITHER, REFUSED, Codes
from tests.fuzz.forked import Trial
from tests.fuzz.mutations import YAML, damaged

#: Records that are valid JSON of a wrong shape.
JSON = (
    *(
        "[]",
        "{}",
        "null",
        "3",
        '"text"',
        "true",
        "",
        "{",
        "[[[[",
        "[" * 2000,
        '{"a": ' * 2000,
        "NaN",
    ),
    *('{"schema_version": 1}', '{"schema_version": "1"}', '{"schema_version": 1, "status": []}'),
    *('{"schema_version": 1, "jobs": null}', '{"schema_version": 1, "jobs": [null]}', "\ufeff{}"),
    *('{"schema_version": 1, "jobs": [{}]}', '{"schema_version": 1, "test": {"a": 1e999}}'),
)
#: Values of keys in a record.
LEAVES = (
    None,
    [],
    {},
    "",
    "x",
    -1,
    0,
    1.5,
    True,
    [[]],
    {"a": None},
    10**400,
    float("nan"),
    "\ud800",
)
#: Commands, and the exit codes that are right: a damaged record of a run is a failure (1) to
#: `evaluate` and `predict`, a gap in a report (0), and an invalid config (2) to `train --from`.
COMMANDS: dict[str, Codes] = {
    command: codes
    for codes, commands in {
        frozenset({0, 1}): (
            *("evaluate sweep/one", "evaluate sweep/one --split validation"),
            *("evaluate sweep/one --checkpoint last", "predict sweep/one", "report sweep"),
            *("report sweep/one", "report sweep sweep/two", "report sweep --watch"),
            *("report sweep --output sweep/one/.lock", "evaluate sweep"),
        ),
        frozenset({1, 2}): (
            *("report sweep --baseline x", "report sweep --metric x"),
            "report sweep --evaluation num_beams=2",
        ),
        EITHER: ("train --from sweep/one",),
        REFUSED: (
            *("report", "evaluate sweep/one --num-beams x", "report sweep --output="),
            *("sync sweep", "sync nope", "predict nope", "report nope"),
            "predict sweep/one --batch 99999999999999999999",
            "predict sweep/one --length 9999999999999999999999",
        ),
    }.items()
    for command in commands
}
FILES = (
    *("status.json", "result.json", "config.yaml", "metrics.csv", "checkpoints/best.ckpt", ".lock"),
    *(
        "checkpoints/last.ckpt",
        "checkpoints",
        "attention",
        "status.json",
        "config.yaml",
        "result.json",
    ),
)


def draw_record(random: Random, run: dict[str, bytes]) -> Trial:
    """A command on a sweep of two runs, with one or two files damaged.

    Args:
        random: draws it.
        run: the files of a finished run, by their path in its directory.
    """
    files: dict[str, bytes | None] = {}
    for name in ("one", "two"):
        files |= {f"sweep/{name}/{path}": content for path, content in run.items()}
    jobs = [{"directory": name, "overrides": [f"seed={name}"]} for name in ("one", "two")]
    sweep = {"schema_version": 1, "started": "2026-01-01T00:00:00", "jobs": jobs}
    files["sweep/sweep.json"] = json.dumps(sweep).encode()
    for _ in range(random.choice([1, 1, 2])):
        path = f"sweep/one/{random.choice(FILES)}" if random.random() < 0.85 else "sweep/sweep.json"
        _damage(random, path, files)
    command = random.choice(list(COMMANDS))
    expected = COMMANDS[command]
    if random.random() < 0.2:
        command += " " + random.choice(["--nosuch", "--split x", "--batch 0", "--wandbs x", "-x"])
        expected = REFUSED
    return Trial(command.split(), files, expected=expected)


def read_run(directory: Path) -> dict[str, bytes]:
    """The files of a run, by their path in its directory."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def _loaded(content: bytes) -> dict[str, Any]:
    """A record; empty if it is damaged already."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _damage(random: Random, path: str, files: dict[str, bytes | None]) -> None:
    """Replace, damage or remove a file, or turn it into a directory."""
    content = files.get(path) or b""
    kind = random.randrange(6)
    if kind == 0:
        for inside in [name for name in files if name.startswith(f"{path}/")]:
            del files[inside]
        files.pop(path, None)
    elif kind == 1 and not any(name.startswith(f"{path}/") for name in files):
        files[path] = None
    elif not content:
        return
    elif kind == 2:
        files[path] = random.choice(YAML if path.endswith(".yaml") else JSON).encode()
    elif path.endswith(".json"):
        place = record = _loaded(content)
        if not record:
            return
        keys = list(place)
        key = random.choice(keys)
        while isinstance(place[key], dict) and place[key] and random.random() < 0.6:
            place = place[key]
            key = random.choice(list(place))
        place[key] = random.choice(LEAVES)
        if random.random() < 0.2:
            del place[key]
        files[path] = json.dumps(record).encode("utf-8", "surrogatepass")
    else:
        files[path] = damaged(random, content)
