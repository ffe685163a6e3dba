"""Reject text that mostly repeats itself: the first sign of degenerate sampling (Holtzman et al. 2020)."""

from __future__ import annotations

from selftaught.config import Section
from selftaught.filters.base import Context, Filter
from selftaught.types import Example

SPAN = 20  # characters


class Repetition(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.limit = context.limits.max_repetition

    def reason(self, example: Example) -> str | None:
        share = repeated_share(example.text)
        return f"{share:.0%} of the text repeats itself (at most {self.limit:.0%})" if share > self.limit else None


def repeated_share(text: str) -> float:
    """Share of the text's overlapping ``SPAN``-character windows that stood before; 0 for texts under three spans."""
    windows = [text[i : i + SPAN] for i in range(len(text) - SPAN + 1)]
    return 1 - len(set(windows)) / len(windows) if len(text) >= 3 * SPAN else 0.0
