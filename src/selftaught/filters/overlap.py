"""Reject what overlaps a held-out question: the same prompt, the question as a line of the text, or a shared n-gram.

Held out means held out in words: an example is compared with every dev, vault and guard question. The n-gram rule
(13 words, as GPT-3 and lm-eval use) applies to questions of at least that many words.

What stands in more than COMMON held-out prompts (those of one group count once) is boilerplate of the file and tells
nothing of one question: filters after GPT-3 leave out frequent n-grams. Here an n-gram is left out if most of its words
are boilerplate, because twelve words of an instruction and the first number after it are a rare n-gram that says as
little. A last turn that so many prompts share ("go on") is compared as a whole prompt only, by the id of its task.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from selftaught.config import Section
from selftaught.filters.base import Context
from selftaught.types import Example

COMMON = 10  # held-out prompts; NeMo Curator's max_matches is the same


class Overlap:
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.n = context.limits.overlap_ngram
        self.questions = context.questions
        self.tasks = {t.id: t for t in context.heldout}
        texts = [(t.group or t.id, t.question) for t in self.tasks.values()]
        self.lines = rare((unit, {normal(text)}) for unit, text in texts) - {""}  # "?" is in nobody's words
        self.ngrams = own_ngrams(texts, self.n)

    def reason(self, example: Example) -> str | None:
        question = self.questions.get(example.task_id, "")
        if example.task_id in self.tasks or normal(question) in self.lines:
            return "its question is held out"
        for line in (question + "\n" + example.text).splitlines():
            if normal(line) in self.lines or normal(line.partition(": ")[2]) in self.lines:
                return f"a line of it is a held-out question: {line.strip()[:80]!r}"
        shared = ngrams(question + " " + example.text, self.n) & self.ngrams if self.ngrams else set()
        return f"shares {self.n} words in a row with a held-out question: {min(shared)!r}" if shared else None


def normal(text: str) -> str:
    """Lower case, single spaces, no closing punctuation."""
    return re.sub(r"\s+", " ", text).strip().rstrip("?.! ").casefold()


def rare(found: Iterable[tuple[str, set[str]]]) -> set[str]:
    """What stands in at most COMMON units, of (unit, set): questions about one passage are one unit."""
    units: dict[str, set[str]] = defaultdict(set)
    for unit, texts in found:
        units[unit] |= texts
    counts = Counter(text for texts in units.values() for text in texts)
    return {text for text, count in counts.items() if count <= COMMON}


def own_ngrams(texts: Sequence[tuple[str, str]], n: int) -> set[str]:
    """The n-grams of (unit, text) without those most of whose words stand in runs that more than COMMON units share."""
    half = n // 2 + 1
    own = rare((unit, ngrams(text, half)) for unit, text in texts)
    found = set()
    for _, text in texts:
        shared: set[int] = set()  # positions of words
        for i, run in enumerate(runs(text, half)):
            shared.update(() if run in own else range(i, i + half))
        found |= {g for i, g in enumerate(runs(text, n)) if len(shared.intersection(range(i, i + n))) < half}
    return found


def ngrams(text: str, n: int) -> set[str]:
    return set(runs(text, n))


def runs(text: str, n: int) -> list[str]:
    """Every n words in a row, in order."""
    words = re.findall(r"\w+", text.casefold())
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
