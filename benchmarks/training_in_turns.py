"""Training steps of one model with several attention mechanisms, which take turns.

Each turn is a few steps of a plain PyTorch loop, on the same batches for each mechanism, so that a
change of the machine's speed affects all of them. It prints medians; ratios are of tokens/s, to the
first mechanism. Run it on an idle machine:

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/training_in_turns.py
"""

import argparse
import itertools
import statistics
import time

from overhead import loop_of

from attention_lab.benchmarks.training import STEPS_PER_TURN
from attention_lab.config.compose import composed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["scaled_dot_product", "additive"]
    parser.add_argument("--attention", nargs="+", default=default, help="mechanisms to compare")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("overrides", nargs="*", default=["experiment=demo"], help="the run")
    chosen = parser.parse_args()
    steps = f"trainer.max_steps={(chosen.turns + 2) * STEPS_PER_TURN}"
    loops = {
        name: loop_of(composed([*chosen.overrides, f"attention={name}", steps]))
        for name in chosen.attention
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(-1, chosen.turns):
        for name in reversed(loops) if turn % 2 else loops:
            started = time.perf_counter()
            list(itertools.islice(loops[name], STEPS_PER_TURN))
            if turn >= 0:  # the turn before warms up
                times[name].append((time.perf_counter() - started) / STEPS_PER_TURN)
    for name, own in times.items():
        ratios = [
            first / second for first, second in zip(times[chosen.attention[0]], own, strict=True)
        ]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1000 * statistics.median(own)
        print(f"{name:24} {milliseconds:7.2f} ms  {ratio:.3f} × tokens/s [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
