"""Graders for short answers out of a text: compared as SQuAD's evaluation does (Rajpurkar et al. 2016), or by recall.

Words are lower case, without punctuation and articles. ``squad`` asks for the same words in the same order; ``recall``
for most of the gold answer's words, wherever they stand: what a model says besides does not count against it. On the
11,688 answers that SEAL released with GPT-4.1's verdicts (Zweiger et al. 2025, arXiv 2506.10943) a recall of 0.6 or
more agreed with 89 % of the verdicts.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from selftaught.tasks.base import Checker
from selftaught.types import Task, digest

ENOUGH = 0.6  # of the gold answer's words
MANY = 4  # times as many words as the gold answer has, and that many more: a list of guesses, or an explanation

_ARTICLES = frozenset(("a", "an", "the"))
_LABEL = re.compile(r"\s*(?:answer|a)\s*:\s*", re.IGNORECASE)  # that a model repeats from its prompt


def words(text: str) -> list[str]:
    """Words as they are compared: NFKC, case folded, without punctuation and articles, unless that leaves nothing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(c for c in folded if c not in string.punctuation and unicodedata.category(c)[0] != "P").split()
    return [w for w in plain if w not in _ARTICLES] or plain or folded.split()


def first_line(text: str) -> str:
    """The first line in which something stands, without "Answer:" before it: a base model goes on with more questions.

    A line that holds nothing but that label is passed over.
    """
    lines = (_LABEL.sub("", line, count=1) if _LABEL.match(line) else line for line in text.splitlines())
    return next((line.strip() for line in lines if line.strip()), "")


def recall(answer: str, gold: str) -> float:
    """Share of the gold answer's words that occur in the answer, each as often as it stands there; 0 without gold."""
    wanted = Counter(words(gold))
    return (wanted & Counter(words(answer))).total() / wanted.total() if wanted else 0.0


def same_recall(answer: str, gold: str) -> bool:
    return recall(answer, gold) >= ENOUGH


def doubts_recall(answer: str, gold: str) -> bool:
    """Some of the gold answer's words but not all; or all of them among many others, as in a list of guesses."""
    share = recall(answer, gold)
    return 0 < share < 1 or (share == 1 and len(words(answer)) > MANY * len(words(gold)) + MANY)


def same_squad(answer: str, gold: str) -> bool:
    return bool(words(gold)) and words(answer) == words(gold)


def accepting(checker: Checker, others: Mapping[str, Sequence[str]]) -> Checker:
    """``checker`` where some tasks have further right answers: ``others`` by the task's ``source``.

    A score is the best over all of them; the task's own ``answer`` stays what is shown, and what likelihoods are of.
    """
    if not others:
        return checker

    def one(task: Task, text: str) -> float:
        if checker.score is not None:
            return checker.score(task, text)
        parsed = checker.parse(text)
        return float(parsed is not None and task.answer is not None and checker.same(parsed, task.answer))

    def best(task: Task, text: str) -> float:
        more = [replace(task, answer=gold) for gold in others.get(task.source, ())]
        return max(one(t, text) for t in (task, *more))

    def golds(task: Task) -> list[str]:
        return [task.answer or "", *others.get(task.source, ())]

    name = digest(checker.digest, {k: list(v) for k, v in others.items()})
    return replace(checker, score=best, golds=golds, digest=name)
