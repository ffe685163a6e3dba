"""Opinions on texts: does a passage say this, is this answer right, how good is this edit.

A generated world knows what its passages say. Elsewhere whoever has the role ``judge`` is asked; where nobody has it,
there is no opinion. Replies are kept as those of every role, so that nothing is asked, or paid for, twice. A judge that
cannot answer now is waited for: an answer that is judged once and not another time is no measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from selftaught import judging
from selftaught.engines.base import StopToken, never
from selftaught.errors import EndpointError
from selftaught.replies import PASSING, SPENT
from selftaught.roles import Role
from selftaught.rollout import rollout
from selftaught.tasks.base import NO_CHECKER, Support, TaskSet
from selftaught.types import Document, Rollout, Sampling, Task

T = TypeVar("T")
REPLY = 128  # tokens: a word, or four marks, and what a judge says around them


class Opinions:
    """Of one run. ``judge`` is asked greedily, each question once. Raises EndpointError where a server gives no reply
    that it may give another time."""

    def __init__(self, source: TaskSet, judge: Role | None, seed: int, stop: StopToken = never) -> None:
        self._source, self._judge, self._seed, self._stop = source, judge, seed, stop
        self._said: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def counting(self) -> Callable[[], dict[str, dict[str, int]]]:
        """Begin to count what the judge is asked; called, the result is that by role, for a unit's facts."""
        who = self._judge
        if who is None:
            return dict
        before = self._counts + who.used
        return lambda: {who.name: dict(self._counts + who.used - before)}

    def support(self, pairs: Sequence[tuple[str, Document]]) -> list[Support | None]:
        """What a document says of a statement; None where nothing is stated, or nobody can tell."""
        if (supports := self._source.supports) is not None:
            return [supports(statement, document) for statement, document in pairs]
        said = self._read([judging.support_task(s, d) for s, d in pairs], judging.read_support)
        self._count("statements judged", "statements not judged", said)
        return cast(list[Support | None], said)

    def marks(self, pairs: Sequence[tuple[Document, str]]) -> list[float | None]:
        """A judge's marks for edits, 0 to 1; None where a reply gives none, or there is no judge."""
        found = self._read([judging.rubric_task(d, edit) for d, edit in pairs], judging.read_rubric)
        self._count("edits marked", "edits not marked", found)
        return [r.score if r is not None else None for r in found]

    def settled(self, doubts: Sequence[tuple[Task, str]]) -> list[bool | None]:
        """Whether an answer that a checker doubts is right."""
        asked = [judging.dispute_task(t.question, self._source.golds(t), answer) for t, answer in doubts]
        found = self._read(asked, judging.read_yes)
        self._count("answers settled", "answers unsettled", found)
        return found

    def _count(self, known: str, unknown: str, found: Sequence[object]) -> None:
        for opinion in found:
            self._counts[unknown if opinion is None else known] += 1

    def _read(self, tasks: Sequence[Task], read: Callable[[str], T | None]) -> list[T | None]:
        who = self._judge
        if who is None:
            return [None] * len(tasks)
        if not who.verifiable:  # a server, whose replies are kept by replies.py: counts are those of a resumed run
            self._said = {}
        new = list({t.id: t for t in tasks if t.id not in self._said}.values())
        rows = rollout(
            who.engine,
            who.checkpoint,
            who.tokens,
            new,
            Sampling(1, 0.0, max_tokens=REPLY),
            {"": NO_CHECKER},
            run_seed=self._seed,
            stop=self._stop,
        )
        _check(rows)
        self._said |= {t.id: who.tokens.said(r.prompt_ids, r.text) or "" for t, r in zip(new, rows, strict=True)}
        return [read(self._said[t.id]) for t in tasks]


def _check(rows: Sequence[Rollout]) -> None:
    left = [r.error for r in rows if r.error in PASSING]
    if left:
        more = " Start a new run with more money, or with another judge." if SPENT in left else ""
        raise EndpointError(
            f"The judge gave no reply to {len(left)} of {len(rows)} questions: {left[0]}.",
            hint=f"What it said is kept, and only the rest is asked again: selftaught resume.{more}",
        )
