"""trainer.strategy_options: the options of DDP."""

import re
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy

from attention_lab.config.identity import identity
from attention_lab.training.distributed import process_group
from attention_lab.training.strategies import make_strategy
from attention_lab.training.trainer import TrainerOptions


def ddp(options: dict[str, bool | float], accumulates: bool = False) -> dict[str, Any]:
    """The options with which a run on two processes calls DistributedDataParallel."""
    strategy = make_strategy("ddp", 2, accumulates, options)
    assert isinstance(strategy, DDPStrategy)
    return strategy._ddp_kwargs


@pytest.fixture
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "is_distributed", lambda: True)


@pytest.mark.usefixtures("_two_processes")
def test_options_replace_the_default_ones() -> None:
    ours = ddp({})
    assert ddp({"bucket_cap_mb": 5.0}) == ours | {"bucket_cap_mb": 5.0}
    assert ddp({"broadcast_buffers": True}) == ours | {"broadcast_buffers": True}
    found = ddp({"find_unused_parameters": True})
    assert found == ours | {"find_unused_parameters": True, "static_graph": False}
    assert ddp({}, accumulates=True) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket_cap": 5}, "no key 'bucket_cap'; did you mean bucket_cap_mb"),
        ({"bucket_cap_mb": 0}, "strategy_options.bucket_cap_mb must be a number above 0, got 0"),
        ({"bucket_cap_mb": float("nan")}, "must be a number above 0, got nan"),
        ({"bucket_cap_mb": True}, "must be a number above 0, got True"),
        ({"static_graph": 1}, "strategy_options.static_graph must be true or false, got 1"),
        ({"static_graph": True, "find_unused_parameters": True}, "must be false with static_graph"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainerOptions(strategy_options=options)


def test_options_that_do_not_fit_the_run_are_refused() -> None:
    with pytest.raises(ValueError, match="strategy=fsdp has none"):
        TrainerOptions(strategy="fsdp", strategy_options={"bucket_cap_mb": 5})
    with pytest.raises(ValueError, match="static_graph must be false with accumulate_grad_batches"):
        TrainerOptions(accumulate_grad_batches=2, strategy_options={"static_graph": True})


def test_options_do_not_change_the_identity_of_a_run() -> None:
    plain = {"trainer": {"max_epochs": 1, "strategy_options": None}}
    assert identity(plain) == identity(
        {"trainer": {"max_epochs": 1, "strategy_options": {"bucket_cap_mb": 5}}}
    )
