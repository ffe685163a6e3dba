"""Self-consistency self-training: LMSI, "Large Language Models Can Self-Improve" (Huang et al. 2022, arXiv 2210.11610).

Sample m reasoning paths per unlabelled question from the frozen parent, take the majority answer, and learn from every
path that reaches it. No label is read. A truncated path or one without an answer is not a vote. Wrong
majorities carry fewer agreeing paths, so they weigh less by themselves; ``min_share`` cuts the rest.

The controls of the same recipe: ``vote: all`` learns from every path with an answer, ``vote: random`` from the paths of
an answer drawn at random for each question. The hook ``at_random`` gives what the latter learns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from pydantic import Field

from selftaught.config import Section
from selftaught.methods.base import Bench, Group
from selftaught.types import Example, Message, Rollout, Sampling, Task, seed_for

Format = Literal["direct", "zero_shot_cot", "few_shot_cot", "few_shot_answer", "answer_only"]
STEPS = ("direct", "zero_shot_cot", "few_shot_cot")  # formats whose completion is the whole path
WRITTEN = "written"  # the source of a question that the model wrote itself


class Exemplar(Section):
    """A worked example for few-shot prompts."""

    question: str
    rationale: str
    answer: str


class QuestionWriting(Section):
    """Self-generated questions (as in the paper): kept only with a confident self-consistent answer."""

    count: int = Field(default=0, ge=0)  # candidates to write; 0 switches it off
    seeds: int = Field(default=10, ge=1)  # example questions shown, in random order
    min_share: float = Field(default=0.7, gt=0, le=1)
    max_tokens: int = Field(default=64, ge=1)


class LmsiOptions(Section):
    samples: int = Field(default=32, ge=2)  # m in the paper; 15 come close to 32
    temperature: float = Field(default=0.7, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=256, ge=1)
    min_share: float = Field(default=0.0, ge=0, le=1)  # share of the samples the majority must reach; none in the paper
    sample_format: Literal["direct", "zero_shot_cot", "few_shot_cot"] = "few_shot_cot"
    formats: tuple[Format, ...] = Field(
        default=("few_shot_cot", "few_shot_answer", "zero_shot_cot", "answer_only"), min_length=1
    )
    answer_text: str = Field(default="The answer is {answer}.", pattern=r"\{answer\}")  # what answer-only formats learn
    exemplars: list[Exemplar] | Literal["self"] = "self"  # self: the model writes the rationales
    exemplar_count: int = Field(default=4, ge=1)
    write_questions: QuestionWriting = QuestionWriting()
    early_stop: int = Field(default=0, ge=0)  # sample in waves of this many and stop once the vote is decided; 0: off
    vote: Literal["majority", "all", "random"] = "majority"


@dataclass(frozen=True)
class Vote:
    """The outcome for one question: the winning answer, its share of all samples, and the paths that reach it."""

    answer: str
    share: float
    paths: tuple[Rollout, ...]


def count_votes(rollouts: Sequence[Rollout]) -> Counter[str]:
    return Counter(r.answer for r in rollouts if r.answer is not None)


def majority(rollouts: Sequence[Rollout]) -> Vote | None:
    """The most frequent answer; of equals the one whose first path came first. None without any vote."""
    votes = count_votes(rollouts)
    if not votes:
        return None
    answer, count = votes.most_common(1)[0]
    return Vote(answer, count / len(rollouts), tuple(r for r in rollouts if r.answer == answer))


def drawn(task: Task, rollouts: Sequence[Rollout], seed: int) -> Vote | None:
    """An answer drawn at random, each that was given as likely as any other. None without any vote."""
    votes = count_votes(rollouts)
    if not votes:
        return None
    answer = random.Random(seed_for(seed, "random vote", task.id)).choice(sorted(votes))
    return Vote(answer, votes[answer] / len(rollouts), tuple(r for r in rollouts if r.answer == answer))


def decided(rollouts: Sequence[Rollout], remaining: int, needed: float = 0.0) -> bool:
    """Whether nothing that the remaining samples say can change the majority, or that its share is (not) ``needed``."""
    (_, first), (_, second) = [*count_votes(rollouts).most_common(2), ("", 0), ("", 0)][:2]
    total = len(rollouts) + remaining
    lost = (first + remaining) / total < needed
    return lost or (first - second > remaining and first / total >= needed)


class SelfConsistency:
    Options = LmsiOptions
    name = "self_consistency"
    roles = ("source",)

    def __init__(self, options: LmsiOptions) -> None:
        self.options = options
        self._exemplars: tuple[Exemplar, ...] | None = None
        self._voted: Sequence[Group] = ()  # what was harvested, all waves
        self._bare: dict[str, Task] = {}  # id of a question as it was asked -> the question without format and examples

    # ------------------------------------------------------------ asking

    def sampling(self) -> Sampling:
        o = self.options
        n = min(o.early_stop, o.samples) if o.early_stop else o.samples
        return Sampling(n, o.temperature, o.top_p, o.top_k, o.max_tokens)

    def most(self) -> tuple[int, int]:
        return self.options.samples, self.options.samples * len(self.options.formats)

    def ask(self, task: Task) -> Task:
        """How a question is put when the model is judged: as it is sampled, but never with self-written exemplars."""
        if self.options.sample_format == "direct":
            return task
        if self.options.sample_format == "few_shot_cot" and self.options.exemplars != "self":
            return self._format(task, "few_shot_cot", tuple(self.options.exemplars))
        return replace(task, form="cot")

    def propose(self, bench: Bench) -> Iterable[Task]:
        exemplars = self._shots(bench)
        own = self._write_questions(bench) if self.options.write_questions.count else []
        asked = [(self._format(t, self.options.sample_format, exemplars), t) for t in (*bench.tasks, *own)]
        self._bare = {a.id: t for a, t in asked}
        return [a for a, _ in asked]

    def _format(self, task: Task, form: Format, exemplars: Sequence[Exemplar]) -> Task:
        """``task`` as ``form`` puts it. Examples stand after a system message and never show their own question."""
        if form == "direct":
            return task
        if form in ("zero_shot_cot", "answer_only"):
            return replace(task, form="cot" if form == "zero_shot_cot" else "plain")
        shots: list[Message] = []
        for e in exemplars:
            text = e.rationale if form == "few_shot_cot" else self._said(e.answer)
            if e.question != task.question:
                shots += [{"role": "user", "content": e.question}, {"role": "assistant", "content": text}]
        system = tuple(takewhile(lambda m: m["role"] == "system", task.prompt))
        return replace(task, prompt=(*system, *shots, *task.prompt[len(system) :]), form="plain")

    def _said(self, answer: str) -> str:
        return self.options.answer_text.replace("{answer}", answer)

    def _shots(self, bench: Bench) -> tuple[Exemplar, ...]:
        """Exemplars as given, or written by the model itself from a few training questions, step by step, greedily."""
        if not any(f.startswith("few_shot") for f in (self.options.sample_format, *self.options.formats)):
            return ()
        if self._exemplars is None:
            given = self.options.exemplars
            self._exemplars = self._write_exemplars(bench) if given == "self" else tuple(given)
        return self._exemplars

    def _write_exemplars(self, bench: Bench) -> tuple[Exemplar, ...]:
        chosen = _pick(bench, "exemplars", 4 * self.options.exemplar_count)
        asked = [replace(t, form="cot") for t in chosen]
        groups = bench.generate(asked, Sampling(1, 0.0, max_tokens=self.options.max_tokens), role="source")
        good = [
            Exemplar(question=t.question, rationale=_spoken(r, bench), answer=r.answer)
            for t, rollouts in groups
            for r in rollouts
            if r.answer is not None
        ]
        bench.note("exemplars written by the model", len(good[: self.options.exemplar_count]))
        return tuple(good[: self.options.exemplar_count])

    def _write_questions(self, bench: Bench) -> list[Task]:
        """Show example questions in random order and let the model continue with one of its own."""
        o = self.options.write_questions
        prompts = []
        for i in range(o.count):
            seeds = [t.question for t in _pick(bench, f"questions {i}", o.seeds)]
            prompts.append(
                Task(
                    ({"role": "user", "content": "\n".join(f"Q: {q}" for q in seeds) + "\nQ:"},),
                    checker=bench.tasks[0].checker,
                    form="raw",
                )
            )
        drawn = bench.generate(prompts, Sampling(1, 1.0, max_tokens=o.max_tokens, stop=("\n",)))
        whole = [r.text.strip() for _, rollouts in drawn for r in rollouts if r.error is None and r.text.strip()]
        lines = [{"role": "user", "content": text.splitlines()[0].strip()} for text in whole]
        fresh = bench.fresh([replace(bench.tasks[0], prompt=(m,), group=None, source=WRITTEN) for m in lines])
        bench.note("questions written by the model", len(fresh))
        bench.note("written questions that were cut off or not new", o.count - len(fresh))
        return fresh

    # ------------------------------------------------------------ learning

    def harvest(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        if self.options.early_stop:
            groups = self._more_waves(groups, bench)
        self._voted = groups
        exemplars = self._shots(bench)
        for task, rollouts in groups:
            vote = self._vote(task, rollouts, bench)
            bench.note("samples", len(rollouts))
            bench.note("samples with an answer", sum(count_votes(rollouts).values()))
            for error, count in Counter(r.error for r in rollouts if r.error is not None).items():
                bench.note(f"samples failed: {error}", count)
            for r in rollouts:
                if bench.tokens.said(r.prompt_ids, r.text) != r.text:
                    bench.note("tokens of thoughts", bench.tokens.thought(r.prompt_ids, r.completion_ids))
            bench.note("questions without a majority" if vote is None else "questions voted", 1)
            if vote is not None:
                yield from self._learn(self._bare.get(task.id, task), vote, exemplars, bench)

    def _vote(self, task: Task, rollouts: Sequence[Rollout], bench: Bench) -> Vote | None:
        if self.options.vote == "random":
            return drawn(task, rollouts, bench.seed)
        if self.options.vote == "all":
            paths = tuple(r for r in rollouts if r.answer is not None)
            return Vote("", 1.0, paths) if paths else None
        vote = majority(rollouts)
        return vote if vote is not None and vote.share >= self._needed(task) else None

    def _needed(self, task: Task) -> float:
        written = self._bare.get(task.id, task).source == WRITTEN
        return self.options.write_questions.min_share if written else self.options.min_share

    def at_random(self, groups: Sequence[Group], bench: Bench) -> Iterable[Example]:
        """The paths of one answer per question, drawn at random, however few they are."""
        exemplars = self._shots(bench)
        for task, rollouts in self._voted:
            if vote := drawn(task, rollouts, bench.seed):
                yield from self._learn(self._bare.get(task.id, task), vote, exemplars, bench)

    def _learn(self, task: Task, vote: Vote, exemplars: Sequence[Exemplar], bench: Bench) -> list[Example]:
        """Every agreeing path in every format (the paper's four); answer-only ones take the answer as text."""
        learned = []
        for form in self.options.formats:
            shown = self._format(task, form, exemplars)
            prompt = bench.tokens.render(shown.prompt, shown.form)
            prompt_ids, lead = bench.tokens.encode(prompt), bench.tokens.lead(prompt)
            for path in vote.paths:
                text = path.text if form in STEPS else lead + self._said(path.answer or "")
                ids = path.completion_ids if form in STEPS else bench.tokens.encode_completion(text)
                learned.append(Example(prompt_ids, ids, text, path.task_id, source=self.name, parents=(path.id,)))
        return learned

    def _more_waves(self, groups: Sequence[Group], bench: Bench) -> list[Group]:
        """Sample the undecided questions on, wave by wave, up to ``samples``; decided ones stop."""
        have = {task.id: (task, list(rollouts)) for task, rollouts in groups}
        first = self.sampling().n
        while first < self.options.samples:
            open_ = [t for t, r in have.values() if not decided(r, self.options.samples - len(r), self._needed(t))]
            wave = replace(self.sampling(), n=min(self.options.early_stop, self.options.samples - first))
            for task, rollouts in bench.generate(open_, wave, first=first, role="source") if open_ else []:
                have[task.id][1].extend(rollouts)
            first += wave.n
        saved = sum(self.options.samples - len(r) for _, r in have.values())
        bench.note("samples saved by early stop", saved)
        return list(have.values())


def _spoken(rollout: Rollout, bench: Bench) -> str:
    """An answer as another prompt shows it: without thoughts, which chat templates strip from earlier turns as well."""
    return (bench.tokens.said(rollout.prompt_ids, rollout.text) or "").strip()


def _pick(bench: Bench, what: str, count: int) -> list[Task]:
    rng = random.Random(seed_for(bench.seed, what))
    return rng.sample(list(bench.tasks), min(count, len(bench.tasks)))
