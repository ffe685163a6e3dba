"""How varied texts are. Pure; texts are token ids, and nothing reaches from one text into the next.

Counts grow with the length of what is counted, so numbers are comparable only between equally many tokens: see ``cut``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Text = Sequence[int]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RARE_PAIRS = 32  # texts that share an n-gram, from which on a matrix product is faster than pairs one by one
COLUMNS = 2048  # n-grams that are multiplied at a time: 32 MiB with 2,000 texts


def cut(texts: Iterable[Text], tokens: int) -> list[tuple[int, ...]]:
    """Texts in order until they hold exactly ``tokens``, the last one cut; ValueError if there are fewer."""
    found, left = [], tokens
    for text in texts:
        if left <= 0:
            break
        found.append(tuple(text[:left]))
        left -= len(found[-1])
    if left > 0:
        raise ValueError(f"{tokens:,} tokens are needed, the texts hold {tokens - left:,}")
    return found


def flat(texts: Sequence[Text]) -> tuple[Ints, Ints]:
    """All tokens in a row, and the length of each text."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.fromiter(chain.from_iterable(texts), np.int64, int(lengths.sum())), lengths


def _ngrams(texts: Sequence[Text], n: int) -> tuple[Ints, Ints]:
    """A number for every n-gram in order, the same for equal ones only (0, 1, ... without a gap); and whose it is."""
    if n < 1:
        raise ValueError(f"an n-gram has at least one token, not {n}")
    tokens, lengths = flat(texts)
    owner = np.repeat(np.arange(len(texts)), lengths)
    starts = np.flatnonzero(np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens)) >= n)
    tokens = np.unique(tokens, return_inverse=True)[1]
    found = np.zeros(len(starts), dtype=np.int64)
    for k in range(n):
        found = np.unique(found * (len(tokens) + 1) + tokens[starts + k], return_inverse=True)[1]
    return found, owner[starts]


def unique_ngrams(texts: Sequence[Text], n: int) -> int:
    """Different n-grams."""
    return len(np.unique(_ngrams(texts, n)[0]))


def distinct(texts: Sequence[Text], n: int) -> float:
    """Different n-grams / all of them: distinct-n (Li et al. 2016, arXiv 1510.03055); 0 where there is none."""
    found = _ngrams(texts, n)[0]
    return len(np.unique(found)) / len(found) if len(found) else 0.0


def entropy(texts: Sequence[Text]) -> float:
    """Bits per token of the distribution of single tokens (Shannon 1948), as counted; 0 without tokens."""
    counts = _counts(texts)
    return float(-np.sum(counts / counts.sum() * np.log2(counts / counts.sum()))) + 0.0


def top_mass(texts: Sequence[Text], k: int = 50) -> float:
    """Share of all tokens that the ``k`` most frequent types make up; 0 without tokens."""
    counts = np.sort(_counts(texts))[::-1]
    return float(counts[:k].sum() / max(1, counts.sum()))


def _counts(texts: Sequence[Text]) -> Ints:
    return np.unique(flat(texts)[0], return_counts=True)[1]


def compression(texts: Sequence[str]) -> float:
    """Raw bytes / compressed bytes (Shaib et al. 2024, arXiv 2403.00553); higher is more repetitive.

    UTF-8, a line feed after each text, zlib at level 9, which is gzip with a shorter header: what comes back after more
    than 32 KiB is new to it. Nothing at all is 0.
    """
    raw = "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw, 9))


def self_repetition(texts: Sequence[Text], n: int = 4, share: float = 0.01) -> float:
    """Share of texts with an n-gram that more than ``share`` of all texts hold, and two at least: a template.

    After Salkar et al. 2022 (aclanthology.org/2022.aacl-short.42), who count what any two texts share.
    """
    found, owner = _ngrams(texts, n)
    if not len(found):
        return 0.0
    ngram, text = np.divmod(np.unique(found * len(texts) + owner), len(texts))
    holders = np.bincount(ngram)[ngram]
    return len(np.unique(text[(holders > 1) & (holders / len(texts) > share)])) / len(texts)


def vendi(texts: Sequence[Text], n: int = 2) -> float:
    """Effective number of different texts: exp of the entropy of the eigenvalues of K/N (Friedman & Dieng 2023).

    K is the cosine of counts of n-grams. Texts too short for any are alike among themselves and like no other. N x N
    numbers are held, and time grows with the cube: for some thousand texts at most. No text at all: 0.
    """
    if not len(texts):
        return 0.0
    values = np.linalg.eigvalsh(_cosines(texts, n) / len(texts))
    values = values[values > 0]
    return float(np.exp(-np.sum(values * np.log(values))))


def _cosines(texts: Sequence[Text], n: int, few: int = RARE_PAIRS, columns: int = COLUMNS) -> Floats:
    """Of every two texts. An n-gram that few texts hold is added pair by pair, the others by products of matrices."""
    many = len(texts)
    found, owner = _ngrams(texts, n)
    cells, counts = np.unique(found * many + owner, return_counts=True)  # sorted: the texts of one n-gram side by side
    ngram, text = np.divmod(cells, many)
    norms = np.sqrt(np.bincount(text, counts.astype(np.float64) ** 2, many))
    weight = counts / norms[text]
    holders = np.bincount(ngram)
    cosines = np.zeros((many, many))
    common = np.flatnonzero(holders > few)
    for start in range(0, len(common), columns):
        place = np.full(len(holders), -1)
        place[common[start : start + columns]] = np.arange(len(common[start : start + columns]))
        there = place[ngram] >= 0
        block = np.zeros((many, min(columns, len(common) - start)))
        block[text[there], place[ngram[there]]] = weight[there]
        cosines += block @ block.T
    rare = holders[ngram] <= few
    ngram, text, weight = ngram[rare], text[rare], weight[rare]
    pairs = np.zeros_like(cosines)
    for lag in range(1, few):
        same = np.flatnonzero(ngram[lag:] == ngram[:-lag])
        np.add.at(pairs, (text[same], text[same + lag]), weight[same] * weight[same + lag])
    cosines += pairs + pairs.T
    cosines[np.ix_(norms == 0, norms == 0)] = 1.0
    np.fill_diagonal(cosines, 1.0)
    return cosines


def ks(lengths_a: Sequence[float], lengths_b: Sequence[float]) -> float:
    """Largest distance of two empirical distributions (Kolmogorov 1933, Smirnov 1939); ValueError if one is empty."""
    a, b = (np.sort(np.asarray(lengths, dtype=np.float64)) for lengths in (lengths_a, lengths_b))
    if not len(a) or not len(b):
        raise ValueError("a distribution needs at least one value")
    at = np.concatenate([a, b])
    shares = [np.searchsorted(values, at, side="right") / len(values) for values in (a, b)]
    return float(np.max(np.abs(shares[0] - shares[1])))


def rare(texts: Sequence[Text], mass: float = 0.1) -> frozenset[int]:
    """The least frequent token types, which together make up ``mass`` of the tokens or somewhat more.

    Types are taken from count 1 upwards until they hold at least that share, all types of one count together, so that
    neither order nor id decides. Where counts are even it may be far more: with equal counts it is every type.
    """
    types, counts = np.unique(flat(texts)[0], return_counts=True)
    sizes, kinds = np.unique(counts, return_counts=True)
    below = (np.cumsum(sizes * kinds) - sizes * kinds) / max(1, counts.sum())
    taken = sizes[below < mass]
    return frozenset(types[np.isin(counts, taken)].tolist())
