"""Is the bundled base on its plateau? A quarter more pretraining, and the same questions to both.

    make study-plateau                                             train the longer base (about 25 minutes), compare
    .venv/bin/python benchmarks/studies/plateau.py --longer DIR    compare with a base that is there already

If longer pretraining alone moved the base, a loop's gain could be nothing but more training. The base counts as flat
when greedy accuracy moves by less than a point on 2,000 new questions of the demo's mix (seed 7, which no run uses).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from selftaught import paired
from selftaught.engines.torch_engine import TorchEngine
from selftaught.evaluate import answers
from selftaught.rollout import rollout
from selftaught.tasks.base import TaskSet
from selftaught.tasks.world_sums import WorldSums
from selftaught.types import Report, Sampling, Task

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "training" / "sums.py"
RESULTS = HERE / "results" / "plateau.json"
MORE, SEED = 1.25, 7


def judged(engine: TorchEngine, model: str, world: TaskSet, suite: str, tasks: Sequence[Task]) -> Report:
    checkpoint = engine.open(model)
    sampling = Sampling(max_tokens=96)
    rows = rollout(engine, checkpoint, engine.tokens(checkpoint), tasks, sampling, world.checkers, run_seed=SEED)
    return answers(suite, checkpoint, tasks, rows, world)


def compare(longer: str) -> dict[str, dict[str, float]]:
    world = WorldSums(WorldSums.Options(train=1, dev=2000, vault=0, guard=1000)).load(SEED)
    engine = TorchEngine(TorchEngine.Options())
    rows = {}
    for suite, tasks in {"sums": world.dev, "sort": world.guards["sort"]}.items():
        before, after = (judged(engine, model, world, suite, tasks) for model in ("bundled:sums", longer))
        wins, losses = paired.wins_losses(before.scores, after.scores)
        low, high = paired.paired_interval(wins, losses, len(tasks))
        accuracy = {k: r.metrics["accuracy"].value for k, r in (("shipped", before), ("longer", after))}
        rows[suite] = {**accuracy, "difference": (wins - losses) / len(tasks), "low": low, "high": high}
    engine.close()
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| suite | shipped | a quarter more training | difference (95 % interval) |", "|---|---|---|---|"]
    for suite, r in rows.items():
        shown = "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * r[k] for k in ("difference", "low", "high")))
        lines.append(f"| {suite} | {100 * r['shipped']:.2f} % | {100 * r['longer']:.2f} % | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longer", type=Path, default=Path("runs/sums-longer"), help="where the longer base lies")
    arguments = parser.parse_args()
    if not (arguments.longer / "model.safetensors").exists():
        command = [sys.executable, str(BUILD), "--more", str(MORE), "--out", str(arguments.longer)]
        subprocess.run(command, check=True)
    rows = compare(str(arguments.longer))
    RESULTS.parent.mkdir(exist_ok=True)
    short = {suite: {name: round(value, 5) for name, value in r.items()} for suite, r in rows.items()}
    RESULTS.write_text(json.dumps(short, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
