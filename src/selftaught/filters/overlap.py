"""Reject what overlaps a held-out question: the same prompt, the question as a line of the text, or shared n-grams.

Held out means held out in words: an example is compared with every dev, vault and guard question, whatever its case,
spacing, punctuation or width of characters. One shared n-gram (13 words, as GPT-3 and lm-eval use) is enough. A
question that is too short for one of its own overlaps where at least 70 % of its 8-grams are shared, and one of fewer
than 8 words where it is a whole line. A word is a run of letters and digits, so the numbers of a sum are words.

What stands in more than COMMON held-out prompts (those of one group count once) is boilerplate of the file and tells
nothing of one question: filters after GPT-3 leave out frequent n-grams. Here an n-gram is left out if most of its words
are boilerplate, because twelve words of an instruction and the first number after it are a rare n-gram that says as
little. A last turn that so many prompts share ("go on") is compared as a whole prompt only, by the id of its task.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

from selftaught.config import Section
from selftaught.filters._text import COMMON, REMEMBERED, ngrams, normal, runs, spread
from selftaught.filters.base import Context, Filter
from selftaught.types import Example

SHORT = 8  # words in a row, for questions without an n-gram of their own
COVERAGE = 70  # percent of a short question's own 8-grams
LEAD = re.compile(r"^\s*(?:[^:：]*[:：]|[-*•>#]+(?=\s)|\(?\w{1,3}[.)](?=\s))")  # "Q:", "- ", "3. " before a question


class Overlap(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.n = context.limits.overlap_ngram
        self.context = context
        self.tasks = {t.id: t for t in context.heldout}
        texts = [(t.group or t.id, t.question) for t in self.tasks.values()]
        lines = spread((unit, {normal(text)}) for unit, text in texts)
        self.lines = {line for line, count in lines.items() if count <= COMMON} - {""}  # "?" is in nobody's words
        long = own_ngrams(texts, self.n)
        self.ngrams = set().union(*long)
        self.short: dict[str, list[int]] = defaultdict(list)  # 8-gram -> the short questions it stands in
        self.sizes: dict[int, int] = {}  # short question -> its 8-grams
        self.texts = [text for _, text in texts]
        for number, own in enumerate(own_ngrams(texts, SHORT)):
            if own and not long[number]:
                self.sizes[number] = len(own)
                for gram in own:
                    self.short[gram].append(number)

    def reason(self, example: Example) -> str | None:
        question = self.context.question(example)
        if example.task_id in self.tasks or normal(question) in self.lines:
            return "its question is held out"
        for line in (question + "\n" + example.text).splitlines():
            if not self.lines.isdisjoint(with_and_without_lead(line)):
                return f"a line of it is a held-out question: {line.strip()[:80]!r}"
        text = question + " " + example.text
        shared = ngrams(text, self.n) & self.ngrams if self.ngrams else set()
        if shared:
            return f"shares {self.n} words in a row with a held-out question: {min(shared)!r}"
        return self._covers(text) if self.short else None

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
def with_and_without_lead(line: str) -> tuple[str, str]:
    return normal(line), normal(LEAD.sub("", line, count=1))


def own_ngrams(texts: Sequence[tuple[str, str]], n: int) -> list[set[str]]:
    """Of each (unit, text) the n-grams without those most of whose words stand in runs that over COMMON units share."""
    half = n // 2 + 1
    count = spread((unit, ngrams(text, half)) for unit, text in texts)
    found = []
    for _, text in texts:
        shared: set[int] = set()  # positions of words
        for i, run in enumerate(runs(text, half)):
            shared.update(range(i, i + half) if count[run] > COMMON else ())
        found.append({g for i, g in enumerate(runs(text, n)) if len(shared.intersection(range(i, i + n))) < half})
    return found
