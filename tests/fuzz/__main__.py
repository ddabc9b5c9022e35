"""Search for faults: `python -m tests.fuzz --seed 1 --count 1000`."""

import argparse
import shutil
import tempfile
from pathlib import Path
from random import Random

from tests.fuzz.commands import draw_command
from tests.fuzz.faults import faults
from tests.fuzz.forked import run_forked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    chosen = parser.parse_args()
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.seed, chosen.seed + chosen.count):
            place = Path(folder, str(seed))
            place.mkdir()
            trial = draw_command(Random(seed))
            outcome = run_forked(trial, place)
            found = list(faults(trial, outcome))
            if found:
                number += 1
                said = " ".join(repr(each)[:150] for each in trial.arguments)
                print(
                    f"\n=== {seed}: {'; '.join(found)} ({outcome.seconds:.1f} s) {outcome.made[:5]}"
                )
                print(said, {k: v[:100] for k, v in trial.environment.items()})
                for name, content in trial.files.items():
                    if name.startswith("own/"):
                        print(f"{name}: {(content or b'dir')[:200]!r}")
                print(outcome.out[:300])
                print("\n".join(line[:400] for line in outcome.err.splitlines()[-8:]))
            shutil.rmtree(place, ignore_errors=True)
    print(f"\n{number} of {chosen.count} commands with faults")


if __name__ == "__main__":
    main()
