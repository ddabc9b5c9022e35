"""The jobs of a grid: combinations, zipped keys, and grids of their own for some options."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from attention_lab.config.components import ConfigError
from attention_lab.sweeps.grid import expand
from tests.cli.conftest import Command, command  # noqa: F401

parse = OverridesParser.create().parse_overrides


def jobs(*overrides: str, zip: Any = None, param_grid: Any = None) -> list[list[str]]:
    return expand(parse(list(overrides)), {"zip": zip, "param_grid": param_grid}, parse)


def test_without_options_every_combination_is_a_job() -> None:
    assert jobs("attention=a,b", "model=m", "seed=range(2)") == [
        ["attention=a", "model=m", "seed=0"],
        ["attention=a", "model=m", "seed=1"],
        ["attention=b", "model=m", "seed=0"],
        ["attention=b", "model=m", "seed=1"],
    ]
    assert jobs() == [[]]
    assert jobs("seed=0,1", "seed=3") == [["seed=3"]]  # as an experiment's are replaced


def test_zipped_keys_go_together() -> None:
    lr = "+optimizer.lr=1e-3,3e-4"
    assert jobs("attention=a,b", "seed=0,1", lr, zip=["attention", "optimizer.lr"]) == [
        ["attention=a", "+optimizer.lr=0.001", "seed=0"],
        ["attention=a", "+optimizer.lr=0.001", "seed=1"],
        ["attention=b", "+optimizer.lr=0.0003", "seed=0"],
        ["attention=b", "+optimizer.lr=0.0003", "seed=1"],
    ]
    assert jobs("a=1,2", "b=3,4", "c=5,6", "d=7,8", zip=[["a", "c"], ["d", "b"]]) == [
        ["a=1", "c=5", "d=7", "b=3"],
        ["a=1", "c=5", "d=8", "b=4"],
        ["a=2", "c=6", "d=7", "b=3"],
        ["a=2", "c=6", "d=8", "b=4"],
    ]


def test_each_dict_is_a_grid_of_its_own() -> None:
    grids = [
        {"attention": "a", "optimizer.lr": 1e-3},
        {"attention": "b", "attention.num_heads": [2, 4], "model.norm": [True, None]},
        {},
    ]
    assert jobs("seed=0,1", param_grid=grids)[::2] == [
        ["attention=a", "optimizer.lr=0.001", "seed=0"],
        ["attention=b", "attention.num_heads=2", "model.norm=True", "seed=0"],
        ["attention=b", "attention.num_heads=2", "model.norm=null", "seed=0"],
        ["attention=b", "attention.num_heads=4", "model.norm=True", "seed=0"],
        ["attention=b", "attention.num_heads=4", "model.norm=null", "seed=0"],
        ["seed=0"],
    ]
    assert jobs(param_grid={"a": "choice(1,2)", "b": None}) == [
        ["a=1", "b=null"],
        ["a=2", "b=null"],
    ]


SWEPT = ("a=1,2", "b=3,4,5", "c=6,7", "d=8", "seed=0,1")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"zip": ["a", "b"]}, "sweep.zip: keys must have the same number of values; a has 2, b"),
        ({"zip": ["a", "d"]}, "sweep.zip: d is not swept; swept are a, b, c, seed"),
        ({"zip": ["a", {"b": "c"}]}, "sweep.zip: {'b': 'c'} is not swept"),
        ({"zip": [["a", "c"], ["b", "a"]]}, "sweep.zip: a is in it twice"),
        ({"zip": ["a", "a"]}, "sweep.zip: a is in it twice"),
        ({"zip": "a"}, r"sweep.zip: needs at least two keys, got \['a'\]"),
        ({"zip": [["a", "c"], "d"]}, "sweep.zip: d is not swept"),
        ({"zip": ["a", "seed"]}, "sweep.zip: seed is not allowed"),
        ({"param_grid": [3]}, "sweep.param_grid: must be a list of dicts, got 3"),
        ({"param_grid": [{"x": []}]}, "sweep.param_grid: x has no values"),
        ({"param_grid": [{"x": {"y": 1}}]}, "sweep.param_grid: must be a list of plain values"),
        ({"param_grid": [{"d": 1}]}, "d: sweep.param_grid sets it, too"),
        ({"param_grid": [{"x": "interval(0,1)"}]}, "x=interval.*only a search"),
    ],
)
def test_what_cannot_be_combined_is_one_line(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"\A{says}") as caught:
        jobs(*SWEPT, **section)
    assert "\n" not in str(caught.value)


#: A run of two steps on made-up symbols.
TINY = (
    *("logger=csv", "trainer=cpu", "data=reverse", "data.examples=160", "data.batch_size=20"),
    *("data.evaluation_examples=20", "model.d_model=16", "trainer.max_steps=2"),
)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep.zip=[attention,lr]", "attention=none,cosine"), "sweep.zip: lr is not swept"),
        (("sweep.param_grid=[1]",), "sweep.param_grid: must be a list of dicts, got 1"),
        (("sweep.param_grid=[{attention:x}]",), "attention=x: there is no such option"),
        (
            ("sweep.zip=[attention,model.dropout]", "hydra/sweeper=basic"),
            "sweep.zip: not supported by hydra/sweeper=basic",
        ),
    ],
)
def test_a_mistake_creates_nothing(
    arguments: tuple[str, ...],
    says: str,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    answer = command("train", "-m", *TINY, *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"attention-lab: {says}")
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_with_a_zip_and_a_grid_is_reported_by_group(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "pairs.yaml").write_text(
        "# @package _global_\n"
        "sweep:\n"
        "  zip: [optimizer.lr, model.dropout]\n"
        "  param_grid:\n"
        "    - {attention: none}\n"
        "    - {attention: cosine, attention.num_heads: 2}\n"
    )
    arguments = (
        *("train", "-m", "--config-dir", "mine", "experiment=pairs", *TINY),
        *("optimizer.lr=1e-3,3e-3", "model.dropout=0.1,0.2", "hydra.sweeper.max_batch_size=3"),
    )
    answer = command(*arguments)
    assert answer.code == 0, answer.err
    with next(tmp_path.glob("outputs/*/report.csv")).open() as file:
        groups = {row["group"] for row in csv.DictReader(file) if row["n"] == "1"}
    assert groups == {
        "none, lr=0.001, dropout=0.1",
        "none, lr=0.003, dropout=0.2",
        "cosine, lr=0.001, dropout=0.1, num_heads=2",
        "cosine, lr=0.003, dropout=0.2, num_heads=2",
    }
    (sweep,) = (tmp_path / "outputs").iterdir()
    assert sweep.name.startswith("pairs-")
    planned = command(*arguments, "--dry-run")
    assert re.findall("^ *jobs +(.*)", planned.out, re.MULTILINE) == [
        "3: 3 finished",
        "1: 1 finished",
    ]
