"""Marks for an edit for which no adapter was trained. Pure.

SEAL's rubric (length, diversity, quality, correctness; Zweiger et al. 2025, arXiv 2506.10943v2, appendix), as far as it
can be counted.

A judge's marks are the other way (``judging.rubric_task``). Neither has seen a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from selftaught.tasks.base import Support

FULL = 2.0  # an edit of so many times the passage's words has full length


def score(edit: str, passage: str, support: Sequence[Support | None] = ()) -> float:
    """0 to 1, the mean of four parts.

    Length: words beside the passage's. Diversity: pairs of words that neither the passage nor the edit had before.
    Quality: words of the passage that it speaks of. Correctness: statements that are supported, where ``support`` says
    so (one per statement), else words that the passage has too.
    """
    said, told = _words(edit), _words(passage)
    if not said or not told:
        return 0.0
    pairs, known = list(pairwise(said)), set(told)
    length = min(1.0, len(said) / (FULL * len(told)))
    diversity = len(set(pairs) - set(pairwise(told))) / max(1, len(pairs))
    quality = len(known.intersection(said)) / len(known)
    checked = [s == "supported" for s in support if s is not None]
    correctness = sum(checked) / len(checked) if checked else sum(w in known for w in said) / len(said)
    return (length + diversity + quality + correctness) / 4


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
