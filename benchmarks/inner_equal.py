"""Whether throw-away adapters trained together are what they should be; where not, no ratio of inner.py counts.

``exact`` against a PEFT loop in float32, from the same adapter in the same order: losses and parameters. bf16 against
float32: final loss (PEFT under bf16 autocast is the yardstick), and the ranking of edits by the log-probability of gold
answers, on a recipe's documents with its trials (a rank correlation of 0.8 is the least; above that, that of two
training seeds is the yardstick: what a seed shuffles already is no harm of bf16's). An adapter alone, and first, in the
middle and last among 1, 11 and 63 others, some of another rate and few of another rank: bit for bit.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import inner_work as work
import numpy as np
import timing
import torch
from inner_peers import EXACT, OURS, Loop, Losses, Ours, Setting, State, adapter, bare

from selftaught.config import Recipe, read_recipe
from selftaught.engines.base import TrialJob, Trialled, TuneJob
from selftaught.load import make
from selftaught.methods.base import Trial
from selftaught.trial import tuning, with_gold
from selftaught.types import Document, Sampling, Task

RECIPE = Path(__file__).parents[1] / "recipes" / "selfedit.yaml"
FINAL_LOSS = 1e-3  # nats per token: most that ``exact`` may differ from PEFT in, in the last tenth of its steps
MOVED = 0.01  # most that its parameters may differ in, as a share of how far training moved them (Frobenius norms)
SAME_ANSWERS = 0.95  # least share of greedy answers: where two tokens are as likely, float32 sums decide
BF16_LOSS = (
    0.02  # nats per token that bf16 may shift a final loss by, where PEFT's autocast shifts it by less than half
)
OTHERS = (1, 11, 63)
LEAST_RANKED = 0.8  # Spearman's correlation that bf16 has with float32 at least, whatever another seed has
RANKED = 0.9  # and below which bf16 may not rank worse, beyond two standard errors, than a seed
DOCUMENTS, EDITS = 12, 6


# ---------------------------------------------------------------- losses and answers


def tenths(losses: Sequence[float]) -> list[float]:
    """Mean loss of each tenth of the steps: for ten epochs, of each epoch."""
    return [float(np.mean(part)) for part in np.array_split(losses, min(10, len(losses)))]


def beside(ours: Losses, theirs: Losses) -> dict[str, Any]:
    """How far two sets of loss curves are apart; "final" is the last tenth of the steps."""
    last = [(tenths(a)[-1], tenths(b)[-1]) for a, b in zip(ours, theirs, strict=True)]
    apart = [abs(a - b) for a, b in last]
    every = np.concatenate([np.abs(np.subtract(a, b)) for a, b in zip(ours, theirs, strict=True)])
    return {
        "mean abs difference": float(every.mean()),
        "final, mean abs difference": float(np.mean(apart)),
        "final, most": max(apart),
        "final, mean difference": float(np.mean([a - b for a, b in last])),
        "final": float(np.mean([a for a, _ in last])),
        "per job and tenth": curves(ours),
    }


def curves(losses: Losses) -> list[list[float]]:
    return [[round(x, 4) for x in tenths(some)] for some in losses]


def exact_fails(found: Mapping[str, Any]) -> list[str]:
    off = found["final, most"]
    return [] if off <= FINAL_LOSS else [f"an exact final loss is {off:.1e} away from PEFT's (at most {FINAL_LOSS:g})"]


def same_answers(ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Shares of answers, and of tokens, that are the same."""
    a, b = (np.array([ids for some in found for ids in some]) for found in (ours, theirs))
    return {"answers that are PEFT's": float((a == b).all(1).mean()), "tokens that are PEFT's": float((a == b).mean())}


def answers_fail(found: Mapping[str, float]) -> list[str]:
    same = found["answers that are PEFT's"]
    return [] if same >= SAME_ANSWERS else [f"{same:.1%} of the exact answers are PEFT's (at least {SAME_ANSWERS:.0%})"]


def lines(found: Mapping[str, Any]) -> list[str]:
    """Figures in words, without curves."""
    said = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            flat = {k: v for k, v in value.items() if not isinstance(v, list | Mapping)}
            if flat:
                said.append(f"{name}: " + ", ".join(f"{k} {written(v)}" for k, v in flat.items()))
            said += [f"{name}, {line}" for line in lines({k: v for k, v in value.items() if isinstance(v, Mapping)})]
    return said


def written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- against PEFT


@dataclass
class Trained:
    """One way to train the sampled jobs: their losses and adapters."""

    losses: Losses
    adapters: list[State]


def against_peft(size: str, folder: Path, ours: Mapping[str, Ours]) -> tuple[dict[str, Any], list[str]]:
    """``exact`` beside PEFT's loop in losses and parameters, and what bf16 does to the losses of both."""
    jobs = work.real(ours[EXACT].checkpoint, timing.SHAPES[size][-1])
    jobs = [jobs[i] for i in work.strata(jobs, 8)]
    starts = ours[EXACT].starts(jobs)
    peft = {name: by_loop(folder, setting, jobs, starts)
            for name, setting in (("float32", Setting()), ("bf16", Setting(autocast=True)))}  # fmt: skip
    mine = {name: by_trials(engine, jobs) for name, engine in ours.items()}
    apart = [distance(a, b, s) for a, b, s in
             zip(mine[EXACT].adapters, peft["float32"].adapters, starts, strict=True)]  # fmt: skip
    exact = beside(mine[EXACT].losses, peft["float32"].losses) | {
        "parameters, most": max(most for most, _ in apart),
        "parameters, share of movement, most": max(share for _, share in apart),
    }
    bf16 = beside(mine[OURS].losses, mine[EXACT].losses)
    yardstick = beside(peft["bf16"].losses, peft["float32"].losses)
    fails = exact_fails(exact)
    if exact["parameters, share of movement, most"] > MOVED:
        fails.append(f"exact parameters differ from PEFT's by more than {MOVED:g} of their movement")
    shift, allowed = "final, mean abs difference", 2 * yardstick["final, mean abs difference"]
    if bf16[shift] > max(BF16_LOSS, allowed):
        fails.append(f"bf16 shifts final losses by {bf16[shift]:.3f}, PEFT's autocast by {allowed / 2:.3f}")
    return {"exact beside PEFT": exact, "bf16 beside exact": bf16, "PEFT's bf16 beside its float32": yardstick}, fails


def by_loop(folder: Path, setting: Setting, jobs: Sequence[TuneJob], starts: Sequence[State]) -> Trained:
    loop, found = Loop(folder, setting, jobs[0].lora_rank), Trained([], [])
    for job, start in zip(jobs, starts, strict=True):
        found.losses.append(loop.one(job, start))
        found.adapters.append(loop.state())
    return found


def by_trials(engine: Ours, jobs: Sequence[TuneJob]) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        places, results = engine.kept_of([bare(job) for job in jobs], Path(folder))
        return Trained([list(r.tuned.losses) for r in results], [adapter(place) for place in places])


def distance(mine: State, theirs: State, start: State) -> tuple[float, float]:
    """(most that a parameter differs by, norm of the difference as a share of the norm of the movement)."""
    assert mine.keys() == theirs.keys() == start.keys(), sorted(mine.keys() ^ theirs.keys())
    flat = [torch.cat([s[k].float().flatten() for k in sorted(start)]) for s in (mine, theirs, start)]
    apart = flat[0] - flat[1]
    return float(apart.abs().max()), float(apart.norm() / (flat[1] - flat[2]).norm())


# ---------------------------------------------------------------- alone and among others


def invariance(size: str, engine: Ours) -> tuple[dict[str, bool], list[str]]:
    """Adapters, their losses, answers and log-probabilities alone, and among others: the same bits. The first, the
    middle and the last one are looked at, in one order and the other.

    Two epochs; every third job has another rate, and one in sixteen another rank, so that it shares no table with them.
    """
    trials = company(engine, timing.SHAPES[size][-1], max(OTHERS) + 1)
    found, alone = {}, dict[int, Any]()
    for count in OTHERS:
        probed = sorted({0, count // 2, count})
        alone |= {i: results(engine, [trials[i]])[0] for i in probed if i not in alone}
        ranks = [t.job.lora_rank for t in trials[: count + 1]]
        for order in (range(count + 1), range(count, -1, -1)):
            together = dict(zip(order, results(engine, [trials[i] for i in order]), strict=True))
            for i in probed:
                where = f"{i} among {count} ({ranks.count(ranks[i]) - 1} of its rank), at {order.index(i)}"
                found[where] = together[i] == alone[i]
    return found, [f"adapter {where} is not what it is alone" for where, same in found.items() if not same]


def company(engine: Ours, vocabulary: int, count: int) -> list[TrialJob]:
    jobs = [work.epochs(j, 2) for j in work.real(engine.checkpoint, vocabulary)[:count]]
    jobs = [replace(j, lr=3e-3) if i % 3 == 2 else j for i, j in enumerate(jobs)]
    jobs = [replace(j, lora_rank=8, lora_alpha=16) if i % 16 == 7 else j for i, j in enumerate(jobs)]
    prompts = work.questions(vocabulary, count, 2, 8, 16)
    return [
        TrialJob(j, p, Sampling(1, 1.0, max_tokens=8), [2 * i, 2 * i + 1], golds=[p[1], p[0]])
        for i, (j, p) in enumerate(zip(jobs, prompts, strict=True))
    ]


def results(engine: Ours, trials: Sequence[TrialJob]) -> list[tuple[Trialled, dict[str, bytes]]]:
    """What came of every trial, and the bits of its adapter."""
    with tempfile.TemporaryDirectory() as folder:
        places, found = engine.kept_of(trials, Path(folder))
        bits = [{k: v.float().numpy().tobytes() for k, v in adapter(place).items()} for place in places]
    return list(zip(found, bits, strict=True))


# ---------------------------------------------------------------- ranking of rewards


def ranking(engines: Mapping[str, Ours], recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Rank correlations of rewards over the edits of a passage, mean over passages: bf16 with float32 of one seed, and
    two seeds of float32. A reward is the mean log-probability per token of gold answers after training on an edit."""
    tasks = make("tasks", recipe.tasks).load(recipe.seed)
    asked = {name: [t for t in tasks.train if t.group == name and t.answer] for name in sorted(tasks.documents)}
    chosen = [tasks.documents[name] for name, some in asked.items() if some][:DOCUMENTS]
    assert chosen, "no training document has a question with an answer"
    rewards = {}
    for name, seed in ((EXACT, 1), (OURS, 1), (EXACT, 2)):
        tried = [job for d in chosen for job in trials(engines[name], recipe, d, asked[d.id], seed)]
        rewards[name, seed] = rewarded(engines[name], tried)
    pairs = {"bf16 and float32": ((OURS, 1), (EXACT, 1)), "two seeds of float32": ((EXACT, 1), (EXACT, 2))}
    found: dict[str, Any] = {said: correlations(rewards[a], rewards[b]) for said, (a, b) in pairs.items()}
    ours, seeds = (ranks(rewards[a], rewards[b]) for a, b in pairs.values())
    less = seeds - ours
    error = float(less.std(ddof=1)) / len(less) ** 0.5 if len(less) > 1 else 0.0
    found["bf16 beside a seed"] = {"Spearman less by": float(less.mean()), "standard error": error}
    return {"passages": len(chosen), **found}, ranking_fails(float(ours.mean()), float(less.mean()), error)


def ranking_fails(ours: float, less: float, error: float) -> list[str]:
    """``ours``: Spearman of bf16 and float32, by ``less`` (with its standard error) below that of two seeds."""
    fails = []
    if ours < LEAST_RANKED:
        fails.append(f"bf16 ranks edits like float32 with a Spearman of {ours:.3f} (at least {LEAST_RANKED:g})")
    if ours < RANKED and less > 2 * error:
        fails.append(f"bf16 ranks edits less like float32 than another seed does: {ours:.3f} and {ours + less:.3f}")
    return fails


def edits(document: Document) -> list[list[str]]:
    """Edits of unequal worth: random choices of more and more of what a passage and its restatements say."""
    units = [s for text in (document.text, *document.oracle) for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    g = np.random.default_rng(list(document.id.encode()))
    sizes = np.geomspace(1, len(units), EDITS).round().astype(int).tolist()
    return [[units[i] for i in g.choice(len(units), n, replace=False)] for n in sizes]


def trials(ours: Ours, recipe: Recipe, document: Document, asked: Sequence[Task], seed: int) -> list[TrialJob]:
    """The edits of a passage as the recipe's method and its ``trial`` section learn them, one adapter each."""
    method, tokens = make("methods", recipe.method), ours.engine.tokens(ours.checkpoint)
    learned = [Trial(method.lessons("\n".join(edit), document, tokens), tuple(asked), seed) for edit in edits(document)]
    prompts, golds = zip(*(with_gold(task, method, tokens) for task in asked), strict=True)
    once = Sampling(1, 0.0, max_tokens=1)
    return [
        TrialJob(tuning(ours.checkpoint, t, recipe.trial, recipe.seed), prompts, once, [0] * len(prompts), golds)
        for t in learned
    ]


def rewarded(engine: Ours, trials: Sequence[TrialJob]) -> np.ndarray:
    """Rewards [passages, edits]."""
    found = [np.mean([np.mean(gold) for gold in r.logprobs]) for r in engine.try_all(trials)]
    return np.array(found).reshape(-1, EDITS)


def correlations(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """a, b [passages, edits]: mean rank correlations within a passage, and how often the best edit is the same."""
    return {
        "Spearman": float(ranks(a, b).mean()),
        "Kendall": float(np.mean([kendall(x, y) for x, y in zip(a, b, strict=True)])),
        "same best edit": float(np.mean(a.argmax(1) == b.argmax(1))),
        "mean abs difference": float(np.abs(a - b).mean()),
        "spread of rewards": float(a.std(1).mean()),
    }


def ranks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation within each passage. Rewards are real numbers that hardly ever tie."""
    places = [np.stack((x, y)).argsort(1).argsort(1) for x, y in zip(a, b, strict=True)]
    return np.array([np.corrcoef(both)[0, 1] for both in places])


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Share of pairs in the same order, less the share in the other."""
    i, j = np.triu_indices(len(x), 1)
    return float(np.mean(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])))


# ---------------------------------------------------------------- all of it


@dataclass
class Equal:
    """The case ``equal`` on one model; rewards are ranked with the recipe's own model."""

    size: str
    recipe: Path
    found: dict[str, Any] = field(default_factory=dict)
    fails: list[str] = field(default_factory=list)

    def run(self) -> None:
        with work.model_folder(self.size) as folder:
            ours = {OURS: Ours(folder, exact=False), EXACT: Ours(folder, exact=True)}
            self.add("against PEFT", *against_peft(self.size, folder, ours))
            for name, engine in ours.items():
                self.add(f"{name}, alone and among others", *invariance(self.size, engine))
        if self.recipe.is_file():
            self.add("ranking of rewards", *ranked(self.recipe))
        else:
            self.found["ranking of rewards"] = {"not run": f"there is no {self.recipe.name}"}

    def add(self, name: str, found: Mapping[str, Any], fails: Sequence[str]) -> None:
        print(f"  {name}: {'; '.join(fails) or 'as it should be'}", flush=True)
        self.found[name] = found
        self.fails += [f"{name}: {said}" for said in fails]

    def table(self) -> list[str]:
        said = [f"  {line}" for line in lines(self.found)]
        return [f"equal, {self.size}", *said, *(f"  NOT EQUAL: {fail}" for fail in self.fails)]

    def said(self) -> dict[str, Any]:
        return {"case": "equal", "model": self.size, "void because": self.fails, **self.found}


@cache
def ranked(path: Path) -> tuple[dict[str, Any], list[str]]:
    """``ranking`` with a recipe's model, documents, prompts and trials."""
    recipe = read_recipe(path)
    prompt = recipe.prompt.model_dump()
    engines = {name: Ours(recipe.model, name == EXACT, prompt=prompt) for name in (OURS, EXACT)}
    found, fails = ranking(engines, recipe)
    return {"model": recipe.model, **found}, fails
