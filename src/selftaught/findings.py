"""What a round's trials found: the rewards of all edits, how far they can be trusted, and some edits to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.evaluate import UNIT_OF
from selftaught.ledger import RunRecord, read_report
from selftaught.panels import axis
from selftaught.parts import columns, last_part, part, spread
from selftaught.rows import read_rows
from selftaught.types import MIXED_IN, Document, Metric, Rollout, Verdict

BINS = 20
FATES = ("learned from", "chosen", "refused by a filter", "learned against", "not chosen")
TAKEN = FATES[:2]
WITH, WITHOUT = 4, 2  # documents shown: with an edit that was learned, and with none
OF_REWARDS = {  # metric -> (what it says, whether it is a difference, what it is counted over)
    "without an edit": ("what the model reaches with no adapter", False, "documents"),
    "all edits": ("mean reward of the edits that were tried", False, "documents"),
    "learned edits": ("chosen by these very rewards, so they look better than they are", False, "documents"),
    "best edit, honestly above the mean": ("what the edit that was best under some adapter seeds gains under another",
                                           True, "documents"),
}  # fmt: skip
SHARES = {
    "edits that beat none": ("share of edits with more reward than the model has without one", "documents"),
    "reliability": ("share of the variance of rewards within a document that is the edits' own; the rest is chance",
                    "documents"),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One metric. ``change``: it is a difference; ``over``: what ``metric.n`` counts."""

    name: str
    metric: Metric
    unit: str = "score"
    meaning: str = ""
    change: bool = False
    over: str = ""


@dataclass(frozen=True)
class Edit:
    """An edit with its mean reward; ``reason`` says under how many adapters, and what no edit reaches."""

    text: str
    reward: float
    fate: str
    reason: str

    @property
    def learned(self) -> bool:
        return self.fate in TAKEN


def findings(record: RunRecord) -> list[Found]:
    """The metrics of the final round's trials, in a fixed order; those this module has no words for come last."""
    path = last_part(record, "findings", "report.json")
    if path is None:
        return []
    metrics, unit = dict(read_report(path).metrics), unit_of(_verdicts(record))
    found = [Found(name, metrics.pop(name), unit, *words) for name, words in OF_REWARDS.items() if name in metrics]
    found += [Found(name, metrics.pop(name), "share", said, over=over)
              for name, (said, over) in SHARES.items() if name in metrics]  # fmt: skip
    return found + [Found(name, m) for name, m in metrics.items()]


def _verdicts(record: RunRecord) -> list[Verdict]:
    path = last_part(record, "findings", "verdicts.parquet")
    return [v for v in read_rows(path, Verdict) if v.by.startswith("reward:") and v.value] if path else []


def unit_of(verdicts: Sequence[Verdict]) -> str:
    """Unit of the rewards; they are plain scores where nothing says more."""
    return UNIT_OF.get(verdicts[0].by.removeprefix("reward:"), "score") if verdicts else "score"


def edits(record: RunRecord, documents: Mapping[str, Document]) -> dict[str, Any] | None:
    """The section of the page; None where the run tried no edits. ``documents`` by the task that asks for an edit."""
    metrics, verdicts = findings(record), _verdicts(record)
    if not metrics:
        return None
    weights, unit = _weights(record), unit_of(verdicts)
    fates = {v.subject: fate(v, weights) for v in verdicts}
    counts, rewards = Counter(fates.values()), [(float(v.value or 0), fates[v.subject] in TAKEN) for v in verdicts]
    return {"metrics": metrics, "unit": unit, "n": len(verdicts), "fates": {f: counts[f] for f in FATES if counts[f]},
            "histogram": histogram(rewards, unit), "shown": shown(record, verdicts, fates, documents)}  # fmt: skip


def _weights(record: RunRecord) -> dict[str, float] | None:
    """Weight of every edit that was learned, by its rollout; None where nothing has been curated."""
    path = last_part(record, "reviewed", "kept.parquet") or last_part(record, "examples", "kept.parquet")
    kept = columns(path, "parents", "weight", "source")
    return {p[0]: weight for p, weight, source in kept if p and source not in MIXED_IN} if path else None


def fate(verdict: Verdict, weights: Mapping[str, float] | None) -> str:
    """One of ``FATES``: what became of an edit after its trial."""
    if weights is None:
        return "chosen" if verdict.ok else "not chosen"
    weight = weights.get(verdict.subject)
    if weight is None:
        return "refused by a filter" if verdict.ok else "not chosen"
    return "learned from" if weight > 0 else "learned against"


def histogram(rewards: Sequence[tuple[float, bool]], unit: str) -> dict[str, Any] | None:
    """Columns about evenly spaced rewards: (middle, learned, not learned). None of nothing."""
    values = [r for r, _ in rewards]
    if not values:
        return None
    across = axis(0.0, 1.0) if unit == "share" else axis(min(values), max(values))
    wide = (across.high - across.low) / BINS
    bins = [[0, 0] for _ in range(BINS + 1)]
    for value, learned in rewards:
        bins[int((value - across.low) / wide + 0.5)][not learned] += 1
    return {"bins": [(across.low + i * wide, *pair) for i, pair in enumerate(bins)], "across": across,
            "up": axis(0, max(map(sum, bins)), 4)}  # fmt: skip


def shown(
    record: RunRecord, verdicts: Sequence[Verdict], fates: Mapping[str, str], documents: Mapping[str, Document]
) -> list[tuple[Document | None, list[Edit]]]:
    """Documents with an edit that was learned and the one of least reward, then documents of which none was learned."""
    by_document: dict[str, list[Edit]] = {}
    texts = _texts(record)
    for v in verdicts:
        if v.subject in texts:
            task_id, text = texts[v.subject]
            by_document.setdefault(task_id, []).append(Edit(text, float(v.value or 0), fates[v.subject], v.reason))
    taught = [t for t, some in by_document.items() if any(e.learned for e in some)]
    idle = [t for t in by_document if t not in set(taught)]
    chosen = spread(taught, WITH) + spread(idle, WITHOUT)
    return [(documents.get(t), _extremes(by_document[t])) for t in chosen]


def _extremes(some: Sequence[Edit]) -> list[Edit]:
    """The learned edit of most reward (else the best one), and of the others one of least that says something else."""
    best = max(some, key=lambda e: (e.learned, e.reward))
    rest = [e for e in some if e.text != best.text and not e.learned]
    return [best, min(rest, key=lambda e: e.reward)] if rest else [best]


def _texts(record: RunRecord) -> dict[str, tuple[str, str]]:
    """(task, text) of every sample of the final round, by the rollout's id."""
    paths = [part(record, entry, "rows.parquet") for entry in record.units("rollouts", record.final)]
    return {r.id: (r.task_id, r.text) for path in paths if path for r in read_rows(path, Rollout)}
