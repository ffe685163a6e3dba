"""Reject what repeats, or nearly repeats, an example of another question that was kept before.

Paths of one question are never compared with each other: that they agree is what self-consistency learns from. Of text
that nobody asked for, all that the base wrote (replay) counts as one question, and each real text as one of its own.

*Exact*: the same words and signs, in prompt and completion. *Near*: the sets of word 5-grams of question and completion
have a Jaccard similarity of at least ``curate.duplicate_jaccard``. Candidates come from MinHash with 14 bands of 8 rows
(Broder 1997; datatrove's default), which finds a pair of similarity 0.8 with probability 0.92 and one of 0.9 with
0.9996; each is then compared exactly, so that nothing is rejected by the luck of a hash. Paraphrases escape.

What many questions share by design is no repetition: questions of one group (a passage) are compared exactly only, and
runs of words that stand in more than COMMON questions or groups (an instruction before all of them) are not counted.
Texts with fewer than 20 words besides are compared exactly only. So of more than COMMON near-duplicate questions with
short completions only the exact ones are found.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash, RMinHashLSH

from selftaught.config import Section
from selftaught.filters._text import COMMON, ngrams, normal, spread
from selftaught.filters.base import Context, Filter
from selftaught.types import Example

N = 5  # words in a row
WORDS = 20  # under that many, texts are compared exactly only
BANDS, ROWS = 14, 8
SEED = 0  # of the hash functions
CLOSEST = 20  # candidates that are compared exactly, by estimated similarity: templates can make thousands


@dataclass(frozen=True)
class Sketch:
    """An example as it is compared: its words, the question or group it belongs to, and its MinHash (None: short)."""

    exact: str
    unit: str
    minhash: RMinHash | None


class Duplicates(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.context = context
        self.limit = context.limits.duplicate_jaccard
        count = spread((self._unit(t.id), ngrams(t.question, N)) for t in context.asked.values())
        self.common = {gram for gram, units in count.items() if units > COMMON}
        self.exact: dict[str, Example] = {}  # words -> the first example of them
        self.kept: list[Example] = []  # those with a MinHash, in order; their number is their key in the index
        self.units: list[str] = []
        self.digests = array("I")  # theirs, one after the other
        self.index = RMinHashLSH(self.limit, BANDS * ROWS, BANDS)

    def reason(self, example: Example) -> str | None:
        self.judged = self._sketch(example)
        earlier = self.exact.get(self.judged.exact)
        if earlier is not None and earlier.task_id != example.task_id:
            return f"repeats {_named(earlier)} word for word ({len(self.judged.exact.split())} words and signs)"
        return self._near(example, self.judged.unit, self.judged.minhash) if self.judged.minhash else None

    def keep(self, example: Example) -> None:
        self.exact.setdefault(self.judged.exact, example)
        if self.judged.minhash is not None:
            self.index.insert(len(self.kept), self.judged.minhash)
            self.kept.append(example)
            self.units.append(self.judged.unit)
            self.digests.extend(self.judged.minhash.digest())

    # ------------------------------------------------------------ near

    def _near(self, example: Example, unit: str, minhash: RMinHash) -> str | None:
        """The reason if one of the closest candidates reaches the limit; of equals the earliest."""
        candidates = sorted(key for key in self.index.query(minhash) if self.units[key] != unit)
        if not candidates:
            return None
        digests_N_H = np.frombuffer(self.digests, dtype=np.uint32).reshape(-1, BANDS * ROWS)[candidates]
        equal_N = (digests_N_H == np.array(minhash.digest(), dtype=np.uint32)).sum(axis=1)
        closest = [candidates[i] for i in np.argsort(-equal_N, kind="stable")[:CLOSEST]]
        mine = self._grams(example)
        found = [(jaccard(mine, self._grams(self.kept[key])), -key) for key in closest]
        similarity, key = max(found)
        if similarity < self.limit:
            return None
        return (
            f"nearly repeats {_named(self.kept[-key])}: Jaccard similarity {similarity:.3f} of word {N}-grams,"
            f" a duplicate from {self.limit:g} (curate.duplicate_jaccard)"
        )

    def _sketch(self, example: Example) -> Sketch:
        task, grams = self.context.asked.get(example.task_id), self._grams(example)
        turns = [m["content"] for m in task.prompt] if task else []
        minhash = None
        if len(grams) > WORDS - N:
            minhash = RMinHash(BANDS * ROWS, SEED)
            minhash.update([gram.encode("utf-8", "surrogatepass") for gram in grams])
        return Sketch(normal("\n".join([*turns, example.text])), self._unit(example.task_id), minhash)

    def _unit(self, task_id: str) -> str:
        task = self.context.asked.get(task_id)
        return f"group {task.group}" if task and task.group is not None else task_id

    def _grams(self, example: Example) -> set[str]:
        return ngrams(f"{self.context.question(example)} {example.text}", N) - self.common


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def _named(example: Example) -> str:
    return f"example {example.id} of another question ({example.text.strip()[:40]!r})"
