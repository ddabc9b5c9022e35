"""What `attention-lab list data NAME` shows of a dataset: sizes and the scores of baselines."""

from pathlib import Path
from typing import Any

from attention_lab.config.components import check_node, create
from attention_lab.config.compose import composed
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.metric_info import with_unit
from attention_lab.data.core.splits import SPLITS


def facts(name: str, extra: Path | None) -> list[tuple[str, str]]:
    """Labelled facts on a dataset, or why it cannot be loaded.

    Args:
        name: the dataset, an option of ``data``.
        extra: the user's own config directory.
    """
    try:
        config = composed([f"data={name}"], extra)
        check_node("data", config["data"], SplitDataModule)
        data: SplitDataModule[Any] = create(config["data"], (SplitDataModule,))
        data.setup()
        baselines = data.baselines("test")
    except Exception as error:  # a user's dataset may raise any error: one line, not a traceback
        return [("not loaded", " ".join(str(error).split()) or type(error).__name__)]
    task, model = (config[section]["_target_"].rpartition(".")[2] for section in ("task", "model"))
    sizes = (f"{split} {len(data.split(split).lengths()):,}" for split in SPLITS)
    scores = (
        f"{label} {with_unit(data.monitor, metrics[data.monitor])}"
        for label, metrics in baselines.items()
    )
    return [
        ("task", task),
        ("model", f"{model} by default"),
        ("examples", ", ".join(sizes)),
        (f"test/{data.monitor}", ", ".join(scores)),
    ]
