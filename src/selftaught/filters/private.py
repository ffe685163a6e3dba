"""Reject what repeats a private text: so many tokens in a row of one (``curate.private_span``) must not be learned.

What a run keeps may be published with its data, and what is learned again is remembered longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selftaught.config import Section
from selftaught.filters.base import Context, Filter
from selftaught.types import Example


class PrivateSpans(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.length = context.limits.private_span
        self.known = {run for ids in context.private for run in self._runs(ids)} if self.length else set()

    def _runs(self, ids: Sequence[int]) -> Iterator[int]:
        """Every run of ``length`` tokens as its hash: of integers, so the same in every process."""
        yield from (hash(tuple(ids[i : i + self.length])) for i in range(len(ids) - self.length + 1))

    def reason(self, example: Example) -> str | None:
        if self.known and any(run in self.known for run in self._runs(example.completion_ids)):
            return f"{self.length} tokens in a row of it stand in a private text"
        return None
