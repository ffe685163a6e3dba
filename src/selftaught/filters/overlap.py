"""Reject what overlaps a held-out question: the same prompt, the question as a line of the text, or shared n-grams.

Held out means held out in words: an example is compared with every dev, vault and guard question, whatever its case,
spacing, punctuation or width of characters. One shared n-gram (13 words, as GPT-3 and lm-eval use) is enough. A
question that is too short for one of its own overlaps where at least 70 % of its 8-grams are shared, and one of fewer
than 8 words where it is a whole line. A word is a run of letters and digits, so the numbers of a sum are words.

What stands in more than COMMON held-out prompts (those of one group count once) is boilerplate of the file and tells
nothing of one question: filters after GPT-3 leave out frequent n-grams. Here an n-gram is left out if most of its words
are boilerplate, because twelve words of an instruction and the first number after it are a rare n-gram that says as
little. A last turn that so many prompts share ("go on") is compared as a whole prompt only, by the id of its task.

Of a question about a document that may be learned from, only the wording is held out: n-grams that stand in the
document do not count. A line that is a question counts wherever it stands, with its answer behind it too.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

from selftaught.config import Section
from selftaught.filters._text import COMMON, REMEMBERED, ngrams, normal, runs, spread
from selftaught.filters.base import Context, Filter
from selftaught.types import Example, Task

SHORT = 8  # words in a row, for questions without an n-gram of their own
COVERAGE = 70  # percent of a short question's own 8-grams
TOPIC = re.compile(r"\ATopic: [^\n]*\n")  # which tasks/passages.py puts before a question
ANSWERED = re.compile(r"\s(?=(?:answer|a)\s*\d*\s*[:：])", re.IGNORECASE)
LEAD = re.compile(r"^\s*(?:[^:：]*[:：]|[-*•>#]+(?=\s)|\(?\w{1,3}[.)](?=\s))")  # "Q:", "- ", "3. " before a question


class Overlap(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.n = context.limits.overlap_ngram
        self.context = context
        self.tasks = {t.id: t for t in context.heldout}
        texts = [(t.group or t.id, TOPIC.sub("", t.question)) for t in self.tasks.values()]
        given = [self._given(t) for t in self.tasks.values()]
        lines = spread((unit, {normal(text)}) for unit, text in texts)
        self.lines = {line for line, count in lines.items() if count <= COMMON} - {""}  # "?" is in nobody's words
        long = own_ngrams(texts, self.n, given)
        self.ngrams = set().union(*long)
        self.short: dict[str, list[int]] = defaultdict(list)  # 8-gram -> the short questions it stands in
        self.sizes: dict[int, int] = {}  # short question -> its 8-grams
        self.texts = [text for _, text in texts]
        for number, own in enumerate(own_ngrams(texts, SHORT, given)):
            if own and not long[number]:
                self.sizes[number] = len(own)
                for gram in own:
                    self.short[gram].append(number)

    def reason(self, example: Example) -> str | None:
        question = self.context.question(example)
        if example.task_id in self.tasks or normal(question) in self.lines:
            return "its question is held out"
        for line in (question + "\n" + example.text).splitlines():
            if not self.lines.isdisjoint(asked_in(line)):
                return f"a line of it is a held-out question: {line.strip()[:80]!r}"
        text = question + " " + example.text
        shared = ngrams(text, self.n) & self.ngrams if self.ngrams else set()
        if shared:
            return f"shares {self.n} words in a row with a held-out question: {min(shared)!r}"
        return self._covers(text) if self.short else None

    def _given(self, task: Task) -> str:
        """The document that a held-out question is about, if it is learned from; else ""."""
        document = self.context.documents.get(task.group or "")
        return document.text if document and document.split == "train" else ""

    def _covers(self, text: str) -> str | None:
        """The reason if ``text`` holds COVERAGE percent of a short question's 8-grams."""
        held = Counter(number for gram in ngrams(text, SHORT) for number in self.short.get(gram, ()))
        covered = [n for n, count in held.items() if 100 * count >= COVERAGE * self.sizes[n]]
        if not covered:
            return None
        first = min(covered)
        return (
            f"shares {held[first]} of the {self.sizes[first]} runs of {SHORT} words of a held-out question"
            f" ({COVERAGE}% are too many): {self.texts[first][:80]!r}"
        )


@lru_cache(maxsize=REMEMBERED)
def asked_in(line: str) -> frozenset[str]:
    """A line, and what stands before each question mark and before an answer in it, with and without a lead."""
    asked = line.replace("？", "?").split("?")[:-1]
    parts = {line, ANSWERED.split(line, maxsplit=1)[0], *asked, *(re.split(r"[.!]", part)[-1] for part in asked)}
    return frozenset(normal(said) for part in parts for said in (part, LEAD.sub("", part, count=1)))


def own_ngrams(texts: Sequence[tuple[str, str]], n: int, given: Sequence[str]) -> list[set[str]]:
    """Of each (unit, text) the n-grams without those most of whose words stand in runs that over COMMON units share,
    and without those of the text that is ``given`` to everybody.
    """
    half = n // 2 + 1
    count = spread((unit, ngrams(text, half)) for unit, text in texts)
    found = []
    for (_, text), known in zip(texts, given, strict=True):
        shared: set[int] = set()  # positions of words
        for i, run in enumerate(runs(text, half)):
            shared.update(range(i, i + half) if count[run] > COMMON else ())
        own = {g for i, g in enumerate(runs(text, n)) if len(shared.intersection(range(i, i + n))) < half}
        found.append(own - ngrams(known, n) if own and known else own)
    return found
