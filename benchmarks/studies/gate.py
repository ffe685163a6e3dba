"""How often the gate is wrong, with simulated models: gains that are not there, and gains that are.

    make study-gate        about five minutes; the table below is printed and results/gate.json written

The simulations are those of tests/simulated.py, which tests/test_null_loop.py and tests/test_paired.py bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from selftaught.paired import wilson
from simulated import RUNS, judge, look_at_once, p_values, right_and_wrong, rounds_of_no_change, skewed, true_gains

HERE = Path(__file__).parent
DRAWS = 1000
Row = tuple[str, int, int]  # what was simulated, how often a gain was seen, of how many


def through_the_gate() -> Iterator[Row]:
    for name, gate_ in (("dev and guard first", judge), ("straight to the vault", look_at_once)):
        with tempfile.TemporaryDirectory() as folder:
            yield f"no change, 20 rounds, {name}: proved", rounds_of_no_change(gate_, Path(folder))[0], RUNS
    for discordance in (0.1, 0.27):
        with tempfile.TemporaryDirectory() as folder:
            proved, sizes = true_gains(discordance, Path(folder))
        said = ", ".join(f"{k} {v:,}" for k, v in sizes.items())
        yield f"true +5 points, {discordance:.0%} of the answers change, {said}: proved", proved, RUNS


def single_tests() -> Iterator[Row]:
    """A mean that did not change, at alpha and at a third of it."""
    cases = {f"{n} right or wrong, {d:.0%} change": right_and_wrong(DRAWS, n, d)
             for n, d in ((300, 0.15), (1000, 0.05), (1000, 0.3))}  # fmt: skip
    for clusters in (40, 100, 300):
        cases[f"{clusters} groups, most a little better, a few much worse"] = skewed(DRAWS, clusters, -1)
        cases[f"{clusters} groups, most a little worse, a few much better"] = skewed(DRAWS, clusters, 1)
    for name, draws in cases.items():
        for test in ("sign_flip", "bootstrap"):
            found = p_values(test, draws)
            for alpha in (0.05, 0.05 / 3):
                yield f"{name}: {test} at {alpha:.4f}", int(np.sum(found <= alpha)), DRAWS


def main() -> None:
    rows = []
    for rowed in (through_the_gate(), single_tests()):
        for name, seen, of in rowed:
            low, high = wilson(seen, of)
            rows.append({"simulated": name, "seen": seen, "of": of, "low": round(low, 4), "high": round(high, 4)})
            print(f"{seen:>4} of {of:<5} ({100 * low:.1f} to {100 * high:.1f} %)  {name}", flush=True)
    (HERE / "results" / "gate.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
