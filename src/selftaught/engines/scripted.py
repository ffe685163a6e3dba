"""The shipped fake at the engine seam: no weights, no torch, but honest behaviour that unit tests can reason about.

A scripted model is one number, its skill: the chance that it works a sum out rightly. Wrong answers scatter, so a
majority of its samples is right far more often than one sample. Tuning moves the skill towards the share of right
answers among the examples, by ``learns`` of the distance: up when they are better than the parent, down when worse.
``model: scripted:0.6`` starts one; a tuned one is a folder holding ``scripted.json``.

It also learns what its examples state, and writes notes on passages, by its skill useful ones or idle ones (``_mind``);
a throw-away adapter is one that learnt and is asked at once. Notes that restate their passage count as right answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from selftaught.config import Section
from selftaught.engines._mind import FILE, Mind, answer, knows, mind_in, mind_of, notes, questions, taught, useful
from selftaught.engines.base import (
    Completion,
    Notice,
    Progress,
    Request,
    StopToken,
    TrialJob,
    Trialled,
    Tuned,
    TuneJob,
    never,
    quiet,
    unheard,
)
from selftaught.errors import ModelError, NonFiniteError, Stopped
from selftaught.types import Checkpoint, Example, Message, digest, seed_for

BOS, EOS = 256, 257
LETTERS = {"user": "Q", "assistant": "A", "system": "S"}
STEP_BY_STEP = " Step by step."
VOCABULARY = digest("scripted bytes")[:16]


class ByteTokens:
    """UTF-8 bytes as ids, with begin and end tokens."""

    digest = VOCABULARY
    has_bos = True

    def __init__(self, context: int) -> None:
        self.context = context

    def render(self, messages: Sequence[Message], form: str) -> str:
        if form == "raw":
            return messages[-1]["content"]
        turns = [f"{LETTERS[m['role']]}: {m['content']}" for m in messages]
        return "\n".join([*turns, "A:" + (STEP_BY_STEP if form == "cot" else "")]) if turns else ""

    def encode(self, text: str) -> tuple[int, ...]:
        return (BOS, *text.encode("utf-8", "surrogatepass"))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        return (*text.encode("utf-8", "surrogatepass"), EOS)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def lead(self, prompt: str) -> str:
        return "" if prompt[-1:].isspace() else " "

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        return text

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        return 0


class Scripted:
    class Options(Section):
        learns: float = Field(default=0.5, ge=-1, le=1)
        context: int = Field(default=4096, ge=8)
        truncates: float = Field(default=0.0, ge=0, le=1)  # share of samples that never end
        answers: bool = True  # False: writes no answer at all
        diverges: bool = False  # tuning raises NonFiniteError
        astray: float = Field(default=0.0, ge=0, le=1)  # share of trials whose training leaves the numbers

    def __init__(self, options: Scripted.Options) -> None:
        self.options = options
        self.notice: Notice = unheard  # nothing here needs mending

    def open(self, model: str) -> Checkpoint:
        name, _, skill = model.partition(":")
        if name == "scripted" and re.fullmatch(r"[01]?\.?\d*", skill) and skill.strip("."):
            return Checkpoint(digest("scripted", float(skill)), model)
        if not (Path(model) / FILE).is_file():
            raise ModelError(f"{model!r} is not a scripted model.", hint="Write model=scripted:0.6")
        return Checkpoint(digest("scripted", *mind_in(Path(model)).said().values()), model)

    def tokens(self, checkpoint: Checkpoint) -> ByteTokens:
        return ByteTokens(self.options.context)

    def describe(self, checkpoint: Checkpoint) -> Mapping[str, str | int | float | bool]:
        return {
            "architecture": "scripted",
            "parameters": 1,
            "device": "none",
            "dtype": "none",
            "threads": 1,
            "processes": 1,
        }

    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        total = sum(len(r.seeds) for r in requests)
        done = 0
        for index, request in enumerate(requests):
            if stop():
                raise Stopped
            if request.sampling.guide is not None:
                raise ModelError("The scripted engine follows no guide.", hint="Sample with engine.name=torch_engine.")
            yield index, [self._complete(request, seed) for seed in request.seeds]
            done += len(request.seeds)
            progress(done, total, "samples")

    def _complete(self, request: Request, seed: int, mind: Mind | None = None) -> Completion:
        prompt = ByteTokens(0).decode(request.prompt_ids)
        greedy = request.sampling.temperature == 0
        rng = random.Random(seed_for(0, "greedy", prompt) if greedy else seed)
        text = _write(prompt, mind or mind_of(request.checkpoint), rng) if self.options.answers else "hm"
        ids = _until(text, request.sampling.stop)
        endless = rng.random() < self.options.truncates
        limit = min(request.sampling.max_tokens, self.options.context - len(request.prompt_ids))
        cut = ids[:-1][:limit] if endless else ids[:limit]
        finish = "stop" if cut == ids else "length"
        return Completion(cut, (-0.1,) * len(cut), finish)

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        if stop():
            raise Stopped
        return [_scores(s, mind_of(checkpoint)) for s in sequences]

    def tune(self, job: TuneJob, out: Path, *, stop: StopToken = never, progress: Progress = quiet) -> Tuned:
        for step in range(len(job.batches)):
            if stop():
                raise Stopped
            progress(step + 1, len(job.batches), "steps")
        if self.options.diverges:
            raise NonFiniteError("Training left the numbers (scripted).", hint="Lower train.lr.")
        for step in job.saves:
            (out / str(step)).mkdir()
            self._learnt(replace(job, batches=job.batches[:step])).write(out / str(step))
        if not job.saves:
            self._learnt(job).write(out)
        return _tuned(job)

    def _learnt(self, job: TuneJob) -> Mind:
        mind, used = mind_of(job.parent), _used(job)
        right = _share_right(used)
        skill = mind.skill if right is None else mind.skill + self.options.learns * (right - mind.skill)
        said = [ByteTokens(0).decode(e.completion_ids) for e in used if e.weight > 0]
        return Mind(min(1.0, max(0.0, skill)), {**mind.facts, **taught(said, job.seed)})

    def trials(
        self, jobs: Sequence[TrialJob], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, Trialled]]:
        for index, job in enumerate(jobs):
            if stop():
                raise Stopped
            yield index, self._trial(job)
            progress(index + 1, len(jobs), "adapters")

    def _trial(self, trial: TrialJob) -> Trialled:
        """The adapter knows what its examples state; its skill is the parent's."""
        job, used = trial.job, _used(trial.job)
        astray = random.Random(seed_for(job.seed, "astray", *(e.id for e in used))).random() < self.options.astray
        if used and astray:
            return Trialled(_tuned(job), error="training left the numbers (scripted)")
        mind = replace(mind_of(job.parent), facts=self._learnt(job).facts)
        if trial.keep is not None and used:
            mind.write(trial.keep)
        requests = [Request(job.parent, prompt, trial.sampling, ()) for prompt in trial.prompts]
        completions = (self._complete(r, seed, mind) for r, seed in zip(requests, trial.seeds, strict=True))
        golds = zip(trial.prompts, trial.golds, strict=True) if trial.golds else ()
        scores = (tuple(_scores((*prompt, *gold), mind)[-len(gold) :] if gold else ()) for prompt, gold in golds)
        return Trialled(_tuned(job), tuple(completions), tuple(scores))

    def close(self) -> None: ...


def skill_of(checkpoint: Checkpoint) -> float:
    return mind_of(checkpoint).skill


def _used(job: TuneJob) -> list[Example]:
    return [job.examples[i] for i in sorted({i for batch in job.batches for i in batch})]


def _text(example: Example) -> str:
    return ByteTokens(0).decode((*example.prompt_ids, *example.completion_ids))


def _tuned(job: TuneJob) -> Tuned:
    tokens = sum(len(job.examples[i].completion_ids) for batch in job.batches for i in batch)
    return Tuned(tuple(1.0 / (k + 1) for k in range(len(job.batches))), tokens, (1.0,) * len(job.batches))


def _scores(ids: Sequence[int], mind: Mind) -> list[float]:
    """The answer to a "What is the K of N?" is unlikely where it is not what the model would give."""
    each = -2.0 if knows(ByteTokens(0).decode(ids), mind) is False else -0.1
    return [each] * max(0, len(ids) - 1)


def _until(text: str, stops: Sequence[str]) -> tuple[int, ...]:
    """Ids of the text up to and with the first stop string, or with the end token where there is none."""
    ends = [text.index(s) + len(s) for s in stops if s in text]
    ids = ByteTokens(0).encode_completion(text[: min(ends, default=None)])
    return ids[:-1] if ends else ids


def _write(prompt: str, mind: Mind, rng: random.Random) -> str:
    """An answer to the last question; or, after "Q:" or nothing at all, a question with its answer; or notes on a
    passage, or questions about one; and after any other text little.
    """
    luck, skill = rng.random(), mind.skill
    for found in (questions(prompt, mind), notes(prompt, mind, luck, rng), answer(prompt, mind, luck)):
        if found is not None:
            return found
    if not prompt or prompt.endswith("Q:"):
        asked = "+".join(str(rng.randint(1, 99)) for _ in range(3))
        return f"{' ' if prompt else 'Q: '}{asked}\nA: {_solve(asked, luck < skill, rng)}"
    if not (put := re.findall(r"Q: (.*)", prompt)):
        return " and so on"  # of a text that asks nothing
    asked = put[-1]
    if asked.startswith("sort "):
        return " " + " ".join(sorted(asked.split()[1:]))
    return " " + _solve(asked, luck < skill, rng)


def _solve(asked: str, right: bool, rng: random.Random) -> str:
    numbers = [int(n) for n in re.findall(r"\d+", asked)]
    total = sum(numbers) if right else sum(numbers) + rng.choice([-20, -10, -2, -1, 1, 2, 3, 10, 20, 100])
    return f"{'+'.join(map(str, numbers))}={total}\n#### {total}"


def _share_right(examples: Sequence[Example]) -> float | None:
    """Share of right sums and useful notes among examples, by their weights; None when there is none.

    A negative weight unteaches: a wrong one unlearnt is as good as a right one learnt.
    """
    verdicts = [(right == (e.weight > 0), abs(e.weight)) for e in examples if (right := _right(_text(e))) is not None]
    total = sum(weight for _, weight in verdicts)
    return sum(weight for good, weight in verdicts if good) / total if total else None


def _right(text: str) -> bool | None:
    """Whether a sum is right, or notes are useful; None where a text is neither."""
    before, _, answered = text.rpartition("\nA:")
    question = before.rpartition("Q: ")[2]
    numbers = re.findall(r"\d+", question)
    final = re.search(r"#### (-?\d+)", answered)
    if numbers and final and not question.startswith("sort"):
        return int(final[1]) == sum(map(int, numbers))
    return useful(text)
