"""Reject what overlaps a held-out question: the same prompt, the question as a line of the text, or a shared n-gram.

Held out means held out in words: an example is compared with every dev, vault and guard question. The n-gram rule
(13 words, as GPT-3 and lm-eval use) applies to questions of at least that many words.
"""

from __future__ import annotations

import re

from selftaught.config import Section
from selftaught.filters.base import Context
from selftaught.types import Example


class Overlap:
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.n = context.limits.overlap_ngram
        self.questions = context.questions
        self.tasks = {t.id for t in context.heldout}
        self.lines = {normal(t.question) for t in context.heldout} - {""}  # "?" is in nobody's words
        self.ngrams = {g for t in context.heldout for g in ngrams(t.question, self.n)}

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


def ngrams(text: str, n: int) -> set[str]:
    words = re.findall(r"\w+", text.casefold())
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}
