"""What texts repeat of sources word for word. Pure; exact, for nothing is hashed.

Windows of 1, 2, 4, 8, ... tokens are numbered in dictionary order, equal windows with equal numbers (Karp, Miller &
Rosenberg 1972). The longest match of a suffix is then one of its two neighbours among the sorted suffixes of the
sources (Manber & Myers 1993), and its length is read from the same numbers. So the time depends on how many tokens
there are and how long the longest match is (its logarithm), not on how repetitive they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selftaught.audits._diversity import Ints, Text, flat

Ranks = NDArray[np.int32]
END_OF_TEXT, END_OF_SOURCE, FIRST = 0, 1, 2  # a match holds no end, for no text has the sources' and no source theirs


@dataclass(frozen=True)
class Shared:
    """``length`` tokens from ``at_text`` on are those of source number ``source`` from ``at_source`` on; or 0, -1."""

    length: int
    source: int
    at_text: int
    at_source: int


def longest_shared(texts: Sequence[Text], sources: Sequence[Text]) -> list[Shared]:
    """For each text its longest run of tokens that stands in one source too; the first such run of the text.

    Where it stands in several places of the sources, one of them is named, always the same one.
    """
    tokens, starts = _row(texts, sources)
    border = int(starts[len(texts)]) if len(sources) else len(tokens)  # all sources stand behind all texts
    if not len(texts) or border == len(tokens):
        return [Shared(0, -1, 0, 0)] * len(texts)
    tables = _tables(tokens, border)
    order = border + np.argsort(tables[-1][border:], kind="stable")
    after = np.searchsorted(tables[-1][order], tables[-1][:border])
    near = order[np.stack([np.maximum(after - 1, 0), np.minimum(after, len(order) - 1)])]
    lengths = np.stack([_common(tables, np.arange(border), at) for at in near])
    better = np.argmax(lengths, axis=0)
    length, place = np.max(lengths, axis=0), np.where(better == 1, near[1], near[0])
    found = []
    for start, end in zip(starts[: len(texts)], [*starts[1 : len(texts)], border], strict=True):
        at = int(start + np.argmax(length[start:end]))
        source = int(np.searchsorted(starts, place[at], side="right")) - 1
        where = (source - len(texts), at - int(start), int(place[at] - starts[source]))
        found.append(Shared(int(length[at]), *where) if length[at] else Shared(0, -1, 0, 0))
    return found


def _row(texts: Sequence[Text], sources: Sequence[Text]) -> tuple[Ranks, Ints]:
    """All of them in a row, tokens numbered from FIRST on and an end behind each; and where each begins."""
    tokens, lengths = flat([*texts, *sources])
    starts = np.cumsum(lengths + 1) - lengths - 1
    row = np.empty(len(tokens) + len(lengths), dtype=np.int32)
    ends = np.zeros(len(row), dtype=bool)
    ends[starts + lengths] = True
    row[ends] = np.repeat([END_OF_TEXT, END_OF_SOURCE], [len(texts), len(sources)])
    row[~ends] = np.unique(tokens, return_inverse=True)[1] + FIRST
    return row, starts


def _tables(tokens: Ranks, border: int) -> list[Ranks]:
    """Table k numbers the windows of 2**k tokens; the last is the first in which text and source share no window."""
    tables = [tokens]
    while True:
        last, width = tables[-1], 1 << (len(tables) - 1)
        known = np.zeros(int(last.max()) + 1, dtype=bool)
        known[last[border:]] = True
        if not known[last[:border]].any():
            return tables
        pairs = last.astype(np.int64) * (len(last) + FIRST)
        pairs[:-width] += last[width:]  # what would follow the row does not matter, for it follows an end
        tables.append(np.unique(pairs, return_inverse=True)[1].astype(np.int32))


def _common(tables: Sequence[Ranks], a: Ints, b: Ints) -> Ints:
    """How many tokens are the same from ``a`` and from ``b`` on, for each pair of places."""
    length = np.zeros(len(a), dtype=np.int64)
    for k in range(len(tables) - 2, -1, -1):
        x, y = a + length, b + length
        length += (tables[k][x] == tables[k][y]).astype(np.int64) << k
    return length
