"""Retrieval by words: BM25 (Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, section 3)."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from selftaught.types import Document

K1, B = 1.2, 0.75
_WORD = re.compile(r"\w+")


class Retriever:
    """Documents by their words, the title's among them. Of equal ones the first comes first."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self._counts = [Counter(_words(f"{d.title} {d.text}")) for d in documents]
        self._lengths = [c.total() for c in self._counts]
        self._mean = sum(self._lengths) / max(1, len(documents))
        self._found = Counter(word for c in self._counts for word in c)
        self._holds = dict[str, list[int]]()
        for number, count in enumerate(self._counts):
            for word in count:
                self._holds.setdefault(word, []).append(number)

    def best(self, question: str) -> Document:
        scores: dict[int, float] = defaultdict(float)
        for word in _words(question):
            rarity = math.log(1 + (len(self.documents) - self._found[word] + 0.5) / (self._found[word] + 0.5))
            for i in self._holds.get(word, ()):
                often = self._counts[i][word]
                scores[i] += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * self._lengths[i] / self._mean))
        return self.documents[min(range(len(self.documents)), key=lambda i: (-scores[i], i))]


def _words(text: str) -> list[str]:
    return [w.casefold() for w in _WORD.findall(text)]
