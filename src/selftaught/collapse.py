"""The vote-collapse alarm: do the samples still say something, or only agree?

A model that learns from its own majority can end in consistent-but-wrong or constant answers ("sudden and complete
performance collapse", Shafayat et al. 2025, arXiv 2505.21444). It shows in the samples before any label does: nearly
all agree, one answer is the majority of many different questions, and texts get short (from 511 to 46 tokens in 58
steps there). One sign alone can be honest (an easy set, a yes-or-no set), so the alarm wants one that is extreme or two
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from selftaught.methods.base import Group

FEWEST = 20  # voted questions below which nothing is said
AGREE = 0.98  # mean share of the majority
ONE_ANSWER, EXTREME_ANSWER = 0.5, 0.9  # share of questions that have the same majority answer
SHORT, EXTREME_SHORT = 0.5, 0.3  # of the first round's median length


@dataclass(frozen=True)
class Signals:
    """``length`` is the median of the completions in tokens; ``answer`` the most frequent majority answer."""

    questions: int
    agreement: float
    one_answer: float
    answer: str
    length: float

    def as_facts(self) -> dict[str, Any]:
        return asdict(self)


def signals(groups: Sequence[Group]) -> Signals | None:
    """What the votes look like; None with fewer than FEWEST questions that have two samples and a vote."""
    ballots = [(Counter(r.answer for r in rows if r.answer is not None), len(rows)) for _, rows in groups]
    voted = [(ballot.most_common(1)[0], n) for ballot, n in ballots if ballot and n > 1]
    if len(voted) < FEWEST:
        return None
    answer, count = Counter(winner for (winner, _), _ in voted).most_common(1)[0]
    shares = [votes / n for (_, votes), n in voted]
    length = median(len(r.completion_ids) for _, rows in groups for r in rows)
    return Signals(len(voted), round(fmean(shares), 6), round(count / len(voted), 6), answer or "", float(length))


def alarm(now: Signals | None, first: Signals | None) -> str:
    """Why the votes count as collapsed, with the numbers; "" where they do not. ``first``: the run's first round."""
    if now is None:
        return ""
    shrunk = now.length / first.length if first and first.length else 1.0
    signs = {
        f"the samples agree to {now.agreement:.0%}": now.agreement >= AGREE,
        f"{now.answer!r} is the majority on {now.one_answer:.0%} of {now.questions} questions": now.one_answer
        >= ONE_ANSWER,
        f"samples have {shrunk:.0%} of the first round's length": shrunk <= SHORT,
    }
    shown = [said for said, there in signs.items() if there]
    extreme = now.one_answer >= EXTREME_ANSWER or shrunk <= EXTREME_SHORT
    return "; ".join(shown) if extreme or len(shown) >= 2 else ""
