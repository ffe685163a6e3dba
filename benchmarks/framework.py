"""What the framework costs: runs of the sums recipe, each split into the model's work and everything else.

    make bench-framework                 three runs with fresh seeds, about five minutes
    make bench-framework ARGS="1 seed=3" one run; what is a setting changes the recipe, as on the command line

Every moment belongs to one of three parts. *model*: within the engine's generate, score and tune, their worker
processes and the loading of weights in them included. *start-up*: imports, and the engine's open, tokens and describe.
*framework*: everything else, which a thread that looks at the main one's stack splits by function.
The table is printed; results/framework.json is written unless the recipe was changed. On a machine with other work
read CPU seconds: the wall's say as much of that.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "self_consistency.yaml"
RUNS = 3
MODEL, START_UP, FRAMEWORK = "model", "start-up", "framework"
PERIOD = 0.002  # seconds between two looks at the stack
TOP = 15  # functions in the table


class Clock:
    """Seconds by (stage, part), on the wall and of this thread, and looks at the stack by (stage, function).

    Exactly one part is at work at any time; the stack is looked at while that is the framework.
    """

    def __init__(self) -> None:
        self.stage, self.part = "plan", FRAMEWORK
        self.seconds: Counter[tuple[str, str]] = Counter()
        self.cpu: Counter[tuple[str, str]] = Counter()  # seconds that this thread computed: other work does not count
        self.looks: Counter[tuple[str, str]] = Counter()
        self.since = time.perf_counter(), time.thread_time()
        self.running = True
        self.thread = threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True)
        self.thread.start()

    def switch(self, *, stage: str = "", part: str = "") -> None:
        now = time.perf_counter(), time.thread_time()
        self.seconds[self.stage, self.part] += now[0] - self.since[0]
        self.cpu[self.stage, self.part] += now[1] - self.since[1]
        self.since, self.stage, self.part = now, stage or self.stage, part or self.part

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        before = self.part
        self.switch(part=part)
        try:
            yield
        finally:
            self.switch(part=before)

    def stop(self) -> None:
        self.switch()
        self.running = False
        self.thread.join()

    def total(self, part: str) -> float:
        return sum(seconds for (_, of), seconds in self.seconds.items() if of == part)

    def _look(self, main: int) -> None:
        sys.setswitchinterval(PERIOD / 20)  # else looks would gather where Python's lock is given up by itself
        while self.running:
            time.sleep(PERIOD)
            frame = sys._current_frames().get(main)
            if self.part == FRAMEWORK and frame is not None:
                self.looks[self.stage, innermost(frame)] += 1


def innermost(frame: FrameType | None) -> str:
    """The function of ours that is at work, or waits for a library it called."""
    while frame is not None:
        before, _, file = frame.f_code.co_filename.rpartition("/selftaught/")
        if before:
            return f"{file}: {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "this benchmark"


class Timed:
    """An engine whose work is on the clock."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self.engine, self.clock = engine, clock

    @property
    def notice(self) -> Any:
        return self.engine.notice

    @notice.setter
    def notice(self, hears: Any) -> None:
        self.engine.notice = hears

    def generate(self, requests: Sequence[Any], **how: Any) -> Iterator[tuple[int, list[Any]]]:
        return self.within(self.engine.generate(requests, **how))

    def trials(self, jobs: Sequence[Any], **how: Any) -> Iterator[tuple[int, Any]]:
        return self.within(self.engine.trials(jobs, **how))

    def within(self, finished: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self.clock.within(MODEL):
                found = next(finished, None)
            if found is None:
                return
            yield found

    def score(self, *what: Any, **how: Any) -> list[list[float]]:
        with self.clock.within(MODEL):
            return self.engine.score(*what, **how)

    def tune(self, *what: Any, **how: Any) -> Any:
        with self.clock.within(MODEL):
            return self.engine.tune(*what, **how)

    def close(self) -> None:
        with self.clock.within(MODEL):
            self.engine.close()

    def open(self, model: str) -> Any:
        with self.clock.within(START_UP):
            return self.engine.open(model)

    def tokens(self, checkpoint: Any) -> Any:
        with self.clock.within(START_UP):
            return self.engine.tokens(checkpoint)

    def describe(self, checkpoint: Any) -> Any:
        with self.clock.within(START_UP):
            return self.engine.describe(checkpoint)


class Stages:
    """A view that only tells the clock which stage it is."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def stage(self, name: str, detail: str = "") -> None:
        self.clock.switch(stage=name)

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def line(self, text: str) -> None: ...


def one_run(overrides: Sequence[str]) -> dict[str, Any]:
    """A whole run of the recipe in a temporary folder, from planning to the record."""
    clock = Clock()
    with clock.within(START_UP):
        import_all()
        from selftaught import loop
        from selftaught.config import read_recipe
    with tempfile.TemporaryDirectory() as root:
        recipe = read_recipe(RECIPE, overrides)
        engine, folder = Timed(loop.make_engine(recipe), clock), Path(root) / "run"
        loop.prepare(recipe, folder, engine)
        done = loop.run(folder, view=Stages(clock), engine=engine)
        clock.stop()
    model, framework = clock.total(MODEL), clock.total(FRAMEWORK)
    looks = clock.looks.total() or 1
    return {
        "seed": recipe.seed,
        "outcome": done.decision.outcome,
        "seconds": {part: round(clock.total(part), 2) for part in (MODEL, FRAMEWORK, START_UP)},
        "framework_cpu": round(sum(s for (_, part), s in clock.cpu.items() if part == FRAMEWORK), 2),
        "share": round(framework / (framework + model), 4),
        "stages": [
            {"stage": stage, "framework_cpu": round(clock.cpu[stage, FRAMEWORK], 2)}
            | {p: round(clock.seconds[stage, p], 2) for p in (MODEL, FRAMEWORK, START_UP)}
            for stage in dict.fromkeys(stage for stage, _ in clock.seconds)
        ],
        "functions": [
            {"stage": stage, "function": name, "seconds": round(framework * count / looks, 3)}
            for (stage, name), count in clock.looks.most_common(TOP)
        ],
    }


def import_all() -> None:
    """What a run imports on its way, so that none of it is counted where it happens to come first."""
    import selftaught.engines.torch_engine  # noqa: F401, I001  before torch, as in a run: it sets how threads wait
    import peft  # noqa: F401
    import pyarrow.parquet
    import rensa  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    pyarrow.table({"": [0]})  # takes pandas along, where that is installed


def table(run: dict[str, Any]) -> str:
    lines = ["| stage | model, s | framework, s | of that CPU, s | start-up, s |", "|---|---|---|---|---|"]
    for row in (*run["stages"], {"stage": "all", "framework_cpu": run["framework_cpu"], **run["seconds"]}):
        figures = (row[name] for name in (MODEL, FRAMEWORK, "framework_cpu", START_UP))
        lines.append(f"| {row['stage']} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
    lines += ["", "| framework, by function | stage | s |", "|---|---|---|"]
    lines += [f"| `{row['function']}` | {row['stage']} | {row['seconds']:.2f} |" for row in run["functions"]]
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    count = int(words[0]) if words and words[0].isdigit() else RUNS
    overrides = [word for word in words if "=" in word]
    runs = []
    for _ in range(count):
        seed = [] if any(word.startswith("seed=") for word in overrides) else [f"seed={time.time_ns() % 2**31}"]
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # nothing is remembered from the run before
            runs.append(fresh.submit(one_run, [*overrides, *seed]).result())
        print(f"seed {runs[-1]['seed']}: framework {runs[-1]['share']:.1%} of model and framework", flush=True)
    runs.sort(key=lambda run: run["share"])
    middle = runs[len(runs) // 2]
    print(f"\nThe run in the middle, seed {middle['seed']}, {middle['outcome']}:\n\n{table(middle)}")
    if not overrides:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        found = {
            **machine,
            "load": round(os.getloadavg()[1], 1),
            "shares": [run["share"] for run in runs],
            "run in the middle": middle,
        }
        (HERE / "results" / "framework.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
