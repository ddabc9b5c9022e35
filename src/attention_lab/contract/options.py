"""The contract's command line options: a pytest plugin, which the package registers as one.

Every pytest run in the environment loads it, so it imports nothing else.
"""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attention-lab")
    group.addoption(
        "--attention-lab-config-dir", type=Path, help="your own config groups, tested as well"
    )
    group.addoption("--attention-lab-mechanism", help="test this mechanism only")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "quick: the quick part of the contract",
        "needs(layer): only for layers for which the function is true",
        "empty_rows: only with queries without visible keys",
        "few: only with the quick examples",
        "slow: compiles a layer; not in the quick part",
    ):
        config.addinivalue_line("markers", marker)
