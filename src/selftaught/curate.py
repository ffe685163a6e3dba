"""Keep or reject each example, with the reason. Kept + rejected = made, always; overlap cannot be switched off.

It fails closed: an example on which a filter fails is rejected, and where a filter cannot be made nothing is curated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selftaught import load
from selftaught.engines.base import StopToken, never
from selftaught.filters.base import Context, Filter
from selftaught.stopping import heeding
from selftaught.types import Example, Verdict

ORDER = ("overlap", "private", "length", "repetition", "language", "duplicates")  # the first with a reason rejects
LOOK = 16  # examples between two looks at the stop token
FAILED = "failed"  # the value of a verdict that stands for a filter's failure, not for its opinion

Named = tuple[str, Filter]


@dataclass(frozen=True)
class Curated:
    kept: tuple[Example, ...]
    rejected: tuple[Example, ...]
    verdicts: tuple[Verdict, ...]  # one per rejected example, in the same order

    @property
    def failed(self) -> int:
        """Examples that were rejected because a filter failed on them."""
        return sum(v.value == FAILED for v in self.verdicts)


def curate(examples: Sequence[Example], context: Context, stop: StopToken = never) -> Curated:
    """Raises RecipeError for limits that cannot be used, whatever else keeps a filter from being made, and Stopped."""
    return judge(examples, make_filters(context), stop)


def make_filters(context: Context) -> list[Named]:
    """The filters in their order; on a context without tasks this checks the limits."""
    return [(name, load.member_class("filters", name)(context)) for name in ORDER]


def judge(examples: Sequence[Example], asked: Sequence[Named], stop: StopToken = never) -> Curated:
    kept: list[Example] = []
    rejected: list[Example] = []
    verdicts: list[Verdict] = []
    for example in heeding(stop, examples, LOOK):
        verdict = _first_objection(example, asked)
        if verdict is None:
            kept.append(example)
        else:
            rejected.append(example)
            verdicts.append(verdict)
    return Curated(tuple(kept), tuple(rejected), tuple(verdicts))


def _first_objection(example: Example, asked: Sequence[Named]) -> Verdict | None:
    name = ""
    try:
        for name, each in asked:
            reason = each.reason(example)
            if reason is not None:
                return Verdict(example.id, f"filter:{name}", ok=False, reason=reason)
        for name, each in asked:  # noqa: B007
            each.keep(example)
    except Exception as error:
        why = f"filter {name} failed: {type(error).__name__}: {error}"
        return Verdict(example.id, f"filter:{name}", ok=False, reason=why, value=FAILED)
    return None
