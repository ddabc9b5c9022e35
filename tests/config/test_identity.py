"""Equal runs have equal identities, and different runs have different ones."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_lab.config.data_files import with_hashes
from attention_lab.config.identity import IMMATERIAL, differences, identity
from attention_lab.tracking.run_directory import read_config, write_config
from tests.conftest import Compose

KEYS = st.text("abcdeé_", min_size=1, max_size=5)
NUMBERS = st.floats(allow_nan=False) | st.integers()
LEAVES = st.none() | st.booleans() | NUMBERS | st.text() | st.lists(NUMBERS, max_size=3)
CONFIGS = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3))
)


def leaves(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all values of a config that are not mappings."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def shuffled(config: dict[str, Any], random: Any) -> dict[str, Any]:
    """The config with its keys in another order, at every level."""
    items = list(config.items())
    random.shuffle(items)
    return {k: shuffled(v, random) if isinstance(v, dict) else v for k, v in items}


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The config with another value at a path."""
    config = copy.deepcopy(config)
    inside = config
    for key in path[:-1]:
        inside = inside.setdefault(key, {})
    inside[path[-1]] = value
    return config


@settings(max_examples=50, deadline=None)
@given(CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(config: dict[str, Any], random: Any) -> None:
    other = shuffled(config, random)
    assert identity(other) == identity(config)
    assert differences(other, config) == []


@settings(max_examples=100, deadline=None)
@given(CONFIGS.filter(lambda config: any(leaves(config))), st.data())
def test_every_value_changes_the_identity(config: dict[str, Any], data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(leaves(config))))
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    value = data.draw(
        LEAVES.filter(lambda value: json.dumps(value) != json.dumps(inside[path[-1]]))
    )
    other = changed(config, path, value)
    assert identity(other) != identity(config)
    (difference,) = differences(config, other)
    assert difference.startswith(".".join(path))


def test_values_that_can_change_a_result_change_the_identity(compose: Compose) -> None:
    config = compose("data=labels", "data.train=texts.tsv", "trainer=cpu")
    known = identity(config)
    for path in leaves(config):
        name = ".".join(path)
        immaterial = name in IMMATERIAL or path[0] in IMMATERIAL
        assert (identity(changed(config, path, "another")) == known) == immaterial, name
    assert identity(changed(config, ("sweep", "number"), 3)) == known
    assert identity(changed(config, ("new", "key"), 3)) != known


def test_a_config_keeps_its_identity_on_disk(compose: Compose, tmp_path: Any) -> None:
    config = compose("optimizer.lr=1e-7", "data.limit=null") | {
        "é": {"ü": [1e30, -0.0, "1e3", True, {}]}
    }
    write_config(tmp_path, config)
    assert identity(read_config(tmp_path)) == identity(config)


def test_unreadable_files_are_identified_by_path(
    compose: Compose, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = with_hashes(compose("data=labels", "data.train=texts.tsv"))
    assert there["data"]["train"] == str(tmp_path / "texts.tsv")
    assert identity(with_hashes(there)) == identity(there)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    same = with_hashes(compose("data=labels", "data.train=../below/../texts.tsv"))
    other = with_hashes(compose("data=labels", "data.train=texts.tsv"))
    assert identity(other) != identity(there)
    assert identity(with_hashes(there)) == identity(there)
    assert identity(same) == identity(there)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("labels", ["data.train={}"]),
        ("pairs", ["data.train={}", "data.test={}"]),
        ("text", ["data.path=[{},{}]"]),
    ],
)
def test_files_are_identified_by_content(
    data: str, options: list[str], compose: Compose, tmp_path: Any
) -> None:
    def config_of(name: str) -> Any:
        overrides = [option.replace("{}", str(tmp_path / name)) for option in options]
        return with_hashes(compose(f"data={data}", *overrides))

    (tmp_path / "one").write_text("a\tb\n")
    (tmp_path / "moved").write_text("a\tb\n")
    known, moved = config_of("one"), config_of("moved")
    assert known["data"] != moved["data"]
    assert identity(moved) == identity(known)
    assert differences(known, moved) == []
    (tmp_path / "one").write_text("a\tc\n")
    edited = config_of("one")
    assert edited["data"] == known["data"]
    assert identity(edited) != identity(known)
    name = options[0].partition("=")[0]
    assert f"the content of {name} has changed" in differences(known, edited)
    write_config(tmp_path, known)
    assert identity(read_config(tmp_path)) == identity(known)
