"""Hundreds of throw-away adapters, trained and asked: our ``trials`` beside PEFT and transformers, one thread.

``inner-real``: one job for each of the 250 self-edits that were released with SEAL (arXiv 2506.10943), random tokens of
their lengths, one sequence per step, 10 epochs, LoRA of rank 32 on q_proj and v_proj, AdamW at 1e-3, clip 1.
``inner-dense``: 32 adapters of rank 16, four steps of 16 x 64 tokens. ``adapter-eval``: 32 adapters with four questions
each, 32 tokens behind 32, greedy; ours is asked by a trial, so that one step of training on 8 tokens is in its time.
``adapter-eval-ragged``: five questions each, of 20 to 60 tokens; peers pad them on the left, as generate asks for.
``equal``: what voids every ratio where it fails (inner_equal.py).

Models are random Llamas of 1M, 10M and 50M parameters. "selftaught" has bf16 products, "exact" float32 throughout.
Peers run at the best of the settings that are printed, found by a trial each before anything is measured; then all take
turns. Times are CPU seconds of the process. An extrapolated row was measured on the part that it names and scaled by
steps or by tokens, whichever is kinder to it. "padded" is the loop of SEAL's released code: a Trainer per job, every
sequence padded to 2,048 tokens, padding in the loss. Its steps cost the same, so it is timed for one step and for five:
what four more take goes by steps, the rest, a Trainer's set-up, by jobs.

    make bench-inner        prints tables and writes benchmarks/results/inner.json; needs seal_edit_lengths.json
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inner_equal
import inner_work as work
import peft
import timing
import torch
import transformers
from inner_peers import (
    ASKERS,
    EXACT,
    IN_TURN,
    LOOP,
    OURS,
    PLAIN,
    REFERENCE,
    TRAINER,
    TRAINERS,
    Asked,
    Loop,
    Ours,
    Setting,
)

from selftaught.engines._memory import keep_freed
from selftaught.engines.base import TuneJob

OUT = timing.RESULTS / "inner.json"
CASES = ("equal", "inner-real", "inner-dense", "adapter-eval", "adapter-eval-ragged")
PROMPTS = {"adapter-eval": work.questions, "adapter-eval-ragged": work.ragged}
JOBS = {"inner-real": work.real, "inner-dense": work.dense}
PART = {  # of a peer: jobs, and steps of each at most
    "inner-real": {LOOP: (8, 10**9), TRAINER: (3, 10**9), REFERENCE: (1, 5)},
    "inner-dense": {LOOP: (4, 10**9), TRAINER: (2, 10**9)},
}
MEASURED = {"1M": (3, 10, 10), "10M": (1, 10, 2), "50M": (1, 1, 1)}  # runs of ours; epochs of all jobs: ours, exact
TRIED = 40  # steps for each setting of a peer
NEW = 32  # tokens of an answer


@dataclass
class Row:
    """One peer: its setting, what was measured of the work, CPU seconds for all of it, run by run."""

    name: str
    setting: str
    part: str = ""
    seconds: list[float] = field(default_factory=list)
    megabytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def said(self) -> dict[str, Any]:
        found = {"setting": self.setting, "seconds": [round(s, 3) for s in self.seconds], "peak MB": self.megabytes}
        return found | ({"extrapolated from": self.part} if self.part else {})


# ---------------------------------------------------------------- training


class Training:
    """``inner-real`` or ``inner-dense`` on one model."""

    def __init__(self, case: str, size: str, folder: Path) -> None:
        self.case, self.size, self.folder = case, size, folder
        self.ours = {OURS: Ours(folder, exact=False), EXACT: Ours(folder, exact=True)}
        self.jobs = JOBS[case](self.ours[OURS].checkpoint, timing.SHAPES[size][-1])
        self.rank = self.jobs[0].lora_rank
        self.unit, self.amount = "jobs", len(self.jobs)

    def peers(self) -> dict[str, tuple[Setting, ...]]:
        return {name: TRAINERS[name][0] for name in PART[self.case]}

    def part(self, name: str) -> list[TuneJob]:
        """What of the work a peer is measured on."""
        if name in self.ours:
            most = MEASURED[self.size][1 if name == OURS else 2]
            return [work.epochs(j, most) for j in self.jobs] if self.case == "inner-real" else self.jobs
        count, most = PART[self.case][name]
        return [work.cut(self.jobs[i], most) for i in work.strata(self.jobs, count)]

    def made(self, name: str, setting: Setting) -> Any:
        return TRAINERS[name][1](self.folder, setting, self.rank)

    def tried(self, name: str, peer: Any) -> float:
        typical = self.jobs[work.strata(self.jobs, 1)[0]]
        trial = work.cut(typical, 1 if name == REFERENCE else TRIED)
        times = [timing.seconds(lambda: peer.train([trial])) for _ in range(2 if name == REFERENCE else 3)]
        return min(times)  # the first warms up

    def measured(self, name: str, peer: Any) -> float:
        """CPU seconds for all jobs."""
        part = self.part(name)
        if name == REFERENCE:
            return self.by_steps(peer, part[0])
        scale = min(work.steps(self.jobs) / work.steps(part), work.tokens(self.jobs) / work.tokens(part))
        return timing.seconds(lambda: peer.train(part)) * scale

    def by_steps(self, peer: Any, job: TuneJob) -> float:
        """A step, as what ``job`` takes beyond its first one, for every step; what else one step takes, per job."""
        more = len(job.batches) - 1
        one = work.cut(job, 1)
        peer.train([one])  # warms up
        few, all_ = (timing.seconds(lambda some=some: peer.train([some])) for some in (one, job))
        step = (all_ - few) / more
        print(f"  {REFERENCE}: {few:.2f} s for 1 step, {all_:.2f} s for {more + 1}", flush=True)
        return work.steps(self.jobs) * step + len(self.jobs) * (few - step)

    def part_said(self, name: str) -> str:
        part = self.part(name)
        if work.steps(part) == work.steps(self.jobs):
            return ""
        if name == REFERENCE:
            return (f"1 and {work.steps(part)} steps of one job: {work.steps(self.jobs):,} times what a step adds,"
                    f" and {len(self.jobs)} times the set-up of a Trainer")  # fmt: skip
        return f"{len(part)} of {len(self.jobs)} jobs, {work.steps(part):,} of {work.steps(self.jobs):,} steps"

    def once(self, name: str, setting: str) -> None:
        """For its memory: as much at once as ever."""
        if name in self.ours:
            self.ours[name].train([work.cut(j, len(j.examples)) for j in self.jobs])
        else:
            peer = self.made(name, next(s for s in TRAINERS[name][0] if str(s) == setting))
            peer.train([work.cut(self.part(name)[-1], 20)])

    def equality(self) -> tuple[dict[str, Any], list[str]]:
        """Losses of the sampled jobs beside PEFT's in float32, from the same adapter, in the same order."""
        jobs = [self.part(EXACT)[i] for i in work.strata(self.jobs, PART[self.case][LOOP][0])]
        loop = Loop(self.folder, Setting(), self.rank)
        starts = self.ours[EXACT].starts(jobs)
        theirs = [loop.one(job, start) for job, start in zip(jobs, starts, strict=True)]
        found = {name: inner_equal.beside(ours.train(jobs), theirs) for name, ours in self.ours.items()}
        found["PEFT"] = {"per job and tenth": inner_equal.curves(theirs)}
        return found, inner_equal.exact_fails(found[EXACT])


class Asking:
    """``adapter-eval`` or ``adapter-eval-ragged`` on one model."""

    unit = "tokens"

    def __init__(self, case: str, size: str, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.ours = {OURS: Ours(folder, exact=False), EXACT: Ours(folder, exact=True)}
        self.jobs = work.brief(self.ours[OURS].checkpoint, timing.SHAPES[size][-1])
        self.prompts = PROMPTS[case](timing.SHAPES[size][-1])
        self.amount = NEW * sum(map(len, self.prompts))
        self.kept = tempfile.TemporaryDirectory()
        self.adapters = self.ours[EXACT].kept(self.jobs, Path(self.kept.name))

    def peers(self) -> dict[str, tuple[Setting, ...]]:
        return dict.fromkeys(ASKERS, PLAIN)

    def made(self, name: str, setting: Setting) -> Asked:
        return Asked(self.folder, setting, self.adapters)

    def tried(self, name: str, peer: Asked) -> float:
        return min(self.measured(name, peer) for _ in range(2))  # the first warms up

    def measured(self, name: str, peer: Any) -> float:
        return timing.seconds(lambda: self.answers(name, peer))

    def answers(self, name: str, peer: Any) -> list[list[tuple[int, ...]]]:
        if name in self.ours:
            return self.ours[name].ask(self.jobs, self.prompts, NEW)
        return ASKERS[name](peer, self.prompts, NEW)

    def part_said(self, name: str) -> str:
        return ""

    def once(self, name: str, setting: str) -> None:
        peer = None if name in self.ours else self.made(name, next(s for s in PLAIN if str(s) == setting))
        self.answers(name, peer)

    def equality(self) -> tuple[dict[str, Any], list[str]]:
        """Answers that are PEFT's in float32 with the same adapters."""
        found = {}
        for name, ours in self.ours.items():
            with tempfile.TemporaryDirectory() as folder:
                asked = Asked(self.folder, Setting(), ours.kept(self.jobs, Path(folder)))
            theirs = ASKERS[IN_TURN](asked, self.prompts, NEW)
            found[name] = inner_equal.same_answers(self.answers(name, None), theirs)
        return found, inner_equal.answers_fail(found[EXACT])


# ---------------------------------------------------------------- measuring


@dataclass
class Bench:
    case: str
    size: str
    repeats: int
    rows: dict[str, Row] = field(default_factory=dict)
    equality: Mapping[str, Any] = field(default_factory=dict)
    fails: list[str] = field(default_factory=list)
    amount: int = 0
    unit: str = ""

    def run(self) -> None:
        with work.model_folder(self.size) as folder:
            case = opened(self.case, self.size, folder)
            self.amount, self.unit = case.amount, case.unit
            self.equality, self.fails = case.equality()  # the first to run: a warm-up for ours
            peers: dict[str, Any] = {name: best(case, name, self.rows) for name in case.peers()}
            ours = {name: Row(name, "1 process, 1 thread", case.part_said(name)) for name in case.ours}
            self.rows = ours | self.rows
            for name, row in self.rows.items():
                row.megabytes = timing.memory(__file__, self.case, self.size, name, row.setting)
            for turn in range(self.repeats):
                for name, row in self.rows.items():
                    if name in peers or self.case != "inner-real" or turn < MEASURED[self.size][0]:
                        row.seconds.append(case.measured(name, peers.get(name) or case.ours[name]))
                        print(f"  {name}: {row.seconds[-1]:,.1f} s", flush=True)

    def times(self, mine: str, name: str) -> tuple[float, float, float]:
        """(median, least, most) of how many times ``mine`` is as fast."""
        a, b = self.rows[mine].seconds, self.rows[name].seconds
        return statistics.median(b) / statistics.median(a), min(b) / max(a), max(b) / min(a)

    def table(self) -> list[str]:
        lines = [f"{self.case}, {self.size}: CPU seconds for all, median (least-most) of {self.repeats}; memory"]
        for name, row in self.rows.items():
            ratios = [f"{m:.1f} ({low:.1f}-{high:.1f})" for mine in (OURS, EXACT) if name not in (OURS, EXACT)
                      for m, low, high in [self.times(mine, name)]]  # fmt: skip
            said = f"; ours and exact are {' and '.join(ratios)} times as fast" if ratios else ""
            part = f"; extrapolated from {row.part}" if row.part else ""
            lines.append(f"  {name:17} {timing.spread(row.seconds, ',.1f'):>28} {self.amount / row.median:9,.2f}"
                         f" {self.unit}/s {row.megabytes:6,} MB{said}{part} [{row.setting}]")  # fmt: skip
        return [*lines, *(f"  {line}" for line in inner_equal.lines(self.equality)), *self.verdict()]

    def verdict(self) -> list[str]:
        return [f"  NOT EQUAL, so no ratio above counts: {said}" for said in self.fails]

    def said(self) -> dict[str, Any]:
        return {
            "case": self.case, "model": self.size, self.unit: self.amount, "void because": self.fails,
            "rows": {name: row.said() for name, row in self.rows.items()},
            "times": {f"{mine} / {name}": round(self.times(mine, name)[0], 2) for name in self.rows
                      for mine in (OURS, EXACT) if name not in (OURS, EXACT)},
            "equality": self.equality,
        }  # fmt: skip


def opened(case: str, size: str, folder: Path) -> Any:
    return (Asking if case in PROMPTS else Training)(case, size, folder)


def best(case: Any, name: str, rows: dict[str, Row]) -> Any:
    """The peer at its best setting, which goes into ``rows``; all that were tried are printed."""
    tried: dict[Setting, float] = {}
    for setting in case.peers()[name]:
        tried[setting] = case.tried(name, case.made(name, setting))
    print(f"  {name}: " + "; ".join(f"{s} {v:.2f} s" for s, v in tried.items()), flush=True)
    setting = min(tried, key=tried.__getitem__)
    rows[name] = Row(name, str(setting), case.part_said(name))
    return case.made(name, setting)


def alone(case: str, size: str, name: str, setting: str) -> None:
    with work.model_folder(size) as folder:
        opened(case, size, folder).once(name, setting)
    timing.say_peak()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--equal", action="store_true", help="the same as --cases equal")
    parser.add_argument("--models", nargs="+", type=str.upper, choices=timing.SHAPES, default=["1M", "10M"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recipe", type=Path, default=inner_equal.RECIPE, help="whose documents rewards are ranked on")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()  # which the engine does, and which the peers gain from as well
    quieten()
    if given.alone:
        return alone(*json.loads(given.alone))
    lines: list[str] = []
    fails: list[str] = []
    for case in ["equal"] if given.equal else given.cases:
        for size in given.models:
            print(f"{case}, {size}", flush=True)
            found: Any = inner_equal.Equal(size, given.recipe) if case == "equal" else Bench(case, size, given.repeats)
            found.run()
            timing.keep(given.out, found.said(), peft=peft.__version__, cpu=torch.backends.cpu.get_cpu_capability())
            lines += found.table()
            fails += found.fails
    print("\n".join(lines))
    if fails:
        raise SystemExit(f"Not equal ({len(fails)}): every ratio above is void. See NOT EQUAL.")
    return None


def quieten() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
