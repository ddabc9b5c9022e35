"""`attention-lab evaluate`: the metrics of a finished run, from its checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from attention_lab.cli import fail


def run(arguments: Sequence[str]) -> int:
    """Evaluate one run on one split and print its metrics."""
    parser = argparse.ArgumentParser("attention-lab evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's directory")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    chosen = parser.parse_args(arguments)
    checkpoint = chosen.run / "checkpoints" / f"{chosen.checkpoint}.ckpt"
    if not (chosen.run / "config.yaml").is_file():
        return fail(f"{chosen.run} is not a run's directory: it has no config.yaml", 1)
    if not checkpoint.is_file():
        return fail(f"{chosen.run} has no checkpoint {checkpoint.name}; was it ever validated?", 1)

    from pickle import UnpicklingError

    from yaml import YAMLError

    from attention_lab.training.nodes import ConfigError
    from attention_lab.training.run import evaluate

    try:
        metrics = evaluate(chosen.run, chosen.split, chosen.checkpoint)
    except ConfigError as error:
        return fail(f"{chosen.run / 'config.yaml'}: {error}", 1)
    except (KeyError, YAMLError) as error:
        return fail(f"{chosen.run / 'config.yaml'} is not a run's config: {error!r}", 1)
    except (RuntimeError, UnpicklingError) as error:
        return fail(f"{checkpoint} cannot be used: {error}", 1)
    for name, value in metrics.items():
        print(f"{chosen.split}/{name:<16} {value:.4f}")
    return 0
