"""Search for faults: `python -m tests.fuzz --seed 1 --count 1000`."""

import argparse
import shutil
import tempfile
from pathlib import Path
from random import Random

from tests.fuzz.commands import draw_command
from tests.fuzz.faults import faults
from tests.fuzz.forked import run_forked
from tests.fuzz.records import draw_record, read_run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--run", type=Path, help="a finished run whose records to damage")
    chosen = parser.parse_args()
    number = 0
    files = read_run(chosen.run) if chosen.run else None
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.seed, chosen.seed + chosen.count):
            place = Path(folder, str(seed))
            place.mkdir()
            random = Random(seed)
            trial = draw_command(random) if files is None else draw_record(random, files)
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
                    changed = files and content != files.get(name.removeprefix("sweep/one/"))
                    if name.startswith("own/") or (changed and "two" not in name):
                        print(f"{name}: {(content or b'dir')[:200]!r}")
                print(outcome.out[:300])
                print("\n".join(line[:400] for line in outcome.err.splitlines()[-8:]))
            shutil.rmtree(place, ignore_errors=True)
    print(f"\n{number} of {chosen.count} commands with faults")


if __name__ == "__main__":
    main()
