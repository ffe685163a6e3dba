"""Texts as filters compare them: without case, width, spacing, invisible characters and the punctuation of prose."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

COMMON = 10  # units that may share a run of words before it is boilerplate; NeMo Curator's max_matches is the same

REMEMBERED = 1024  # one filter after the other asks for the words of a text, and samples share question and lines

_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana too: written without spaces, so a character counts as a word
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")
_TOKEN = re.compile(rf"{_WORD.pattern}|[^\w\s]")
_PROSE = frozenset("?!.,;:'\"`\u00a1\u00bf\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u3001\u3002\u300c\u300d")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]"
)
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2012\u2013\u2014\u2015\u2212", "-"))


def plain(text: str) -> str:
    """NFKC and case folding, without zero-width and other invisible characters; every dash is a hyphen."""
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded).translate(_DASHES)


@lru_cache(maxsize=REMEMBERED)
def words(text: str) -> tuple[str, ...]:
    """Letters and digits in a row; of Chinese and Japanese every character."""
    return tuple(_WORD.findall(plain(text)))


def normal(text: str) -> str:
    """Words and the signs of mathematics, a space between any two: ``17+25`` and ``17 + 25`` are the same, ``17-25`` is
    another."""
    return " ".join(filter(None, map(_normal, text.splitlines())))


@lru_cache(maxsize=REMEMBERED)
def _normal(line: str) -> str:
    return " ".join([token for token in _TOKEN.findall(plain(line)) if token not in _PROSE])


def runs(text: str, n: int) -> list[str]:
    """Every n words in a row, in order."""
    found = words(text)
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


def ngrams(text: str, n: int) -> set[str]:
    return set(runs(text, n))


def spread(found: Iterable[tuple[str, set[str]]]) -> Counter[str]:
    """In how many units each text stands, of (unit, texts): questions about one passage are one unit."""
    units: dict[str, set[str]] = defaultdict(set)
    for unit, texts in found:
        units[unit] |= texts
    return Counter(text for texts in units.values() for text in texts)
