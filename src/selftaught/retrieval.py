"""BM25 (Robertson & Zaragoza 2009, section 3): the document that a question is most likely about, without a model.

With the usual change to the weight of a word, ``log(1 + (N - n + 0.5) / (n + 0.5))``: it is never negative, so a word
that most documents have does not count against those that have it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

from selftaught.types import Document

K1, B = 1.2, 0.75


def words(text: str) -> list[str]:
    """Letters and digits in a row, case folded."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


class Retriever:
    """An index of documents by the words of title and text. Their order does not matter. Raises ValueError for none."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = sorted(documents, key=lambda d: d.id)
        if not self._documents:
            raise ValueError("there is no document to find")
        counts = [Counter(words(f"{d.title}\n{d.text}")) for d in self._documents]
        average = sum(c.total() for c in counts) / len(counts) or 1.0
        within = Counter(word for c in counts for word in c)
        self._weights: dict[str, list[tuple[int, float]]] = defaultdict(list)  # word -> (document, what it adds)
        for place, count in enumerate(counts):
            damped = K1 * (1 - B + B * count.total() / average)
            for word, often in count.items():
                rare = math.log(1 + (len(counts) - within[word] + 0.5) / (within[word] + 0.5))
                self._weights[word].append((place, rare * often * (K1 + 1) / (often + damped)))

    def scores(self, question: str) -> dict[str, float]:
        """Document id -> score, of those that share a word with the question."""
        found: dict[str, float] = defaultdict(float)
        for word in words(question):
            for place, weight in self._weights.get(word, ()):
                found[self._documents[place].id] += weight
        return dict(found)

    def best(self, question: str) -> Document:
        """The document with the highest score, of equals the one with the smallest id."""
        scores = self.scores(question)
        return max(self._documents, key=lambda d: scores.get(d.id, 0.0))
