"""Keep or reject each example, with the reason. Kept + rejected = made, always; overlap cannot be switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught import load
from selftaught.filters.base import Context, Filter
from selftaught.types import Example, Verdict

ORDER = ("overlap", "length", "repetition")  # the first filter with a reason rejects; overlap is never optional


@dataclass(frozen=True)
class Curated:
    kept: tuple[Example, ...]
    rejected: tuple[Example, ...]
    verdicts: tuple[Verdict, ...]  # one per rejected example, in the same order


def curate(examples: Sequence[Example], context: Context) -> Curated:
    filters: list[tuple[str, Filter]] = [(name, load.member_class("filters", name)(context)) for name in ORDER]
    kept: list[Example] = []
    rejected: list[Example] = []
    verdicts: list[Verdict] = []
    for example in examples:
        verdict = _first_objection(example, filters)
        if verdict is None:
            kept.append(example)
        else:
            rejected.append(example)
            verdicts.append(verdict)
    return Curated(tuple(kept), tuple(rejected), tuple(verdicts))


def _first_objection(example: Example, filters: Sequence[tuple[str, Filter]]) -> Verdict | None:
    for name, each in filters:
        reason = each.reason(example)
        if reason is not None:
            return Verdict(example.id, f"filter:{name}", ok=False, reason=reason)
    return None
