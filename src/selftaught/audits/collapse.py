"""Model collapse: does a model that learns from models still know what is rare, and does it still write as diversely?

Tails go first (Shumailov et al. 2024, Nature 631:755): the loss on rare tokens of real text that nothing learned moves
most by far, then how many different n-grams stand in as many tokens of the model's own unprompted text; entropy moves
least. Both are held against the model that the run began with, which is sampled anew several times, so that chance is
known. The alarm asks for two rounds in a row, more than three standard deviations, and a declared effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import Field

from selftaught.audits import _diversity as diversity
from selftaught.audits._alarm import Signal, alarm
from selftaught.audits.base import Audit, AuditOptions, Ids, Lab, Opinion, found, mean, series, with_series
from selftaught.types import Checkpoint, Metric, Report, Rollout, Sampling

RARE, TEXT = "loss on rare tokens of real text", "loss on real text"
COUNTED = "tokens of text"
LENGTH = "tokens in a text"
WAVES, APART = 8, 100  # samplings at most until there is enough text; what parts their seeds
T_975 = {3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's, by degrees of freedom


class CollapseOptions(AuditOptions):
    draws: int = Field(default=4, ge=4, le=10)  # samplings of each model
    samples: int = Field(default=250, ge=10)  # unprompted texts in each, at temperature 1
    max_tokens: int = Field(default=128, ge=2)
    tokens: int = Field(default=8000, ge=100)  # of each sampling that are counted, so that counts can be compared
    rare_mass: float = Field(default=0.1, gt=0, lt=1)  # share of the real text's tokens that its rarest types make up
    rare_effect: float = Field(default=0.3, gt=0)  # nats per rare token that count
    ngrams_effect: float = Field(default=0.1, gt=0, lt=1)  # share of different 2- and 3-grams that counts
    entropy_effect: float = Field(default=0.05, gt=0, lt=1)  # the same of the entropy
    length_effect: float = Field(default=0.5, gt=0, lt=1)  # and of the tokens in a text


class Collapse(Audit):
    Options = CollapseOptions
    name = "collapse"
    version = 1

    options: CollapseOptions

    @property
    def samples(self) -> int:
        return self.options.draws * self.options.samples

    def measure(self, lab: Lab, checkpoint: Checkpoint, *, base: bool) -> Report:
        metrics: dict[str, Metric] = {}
        kept: dict[str, list[float]] = {}
        if lab.texts:
            rare = diversity.rare([t[1:] for t in lab.texts], self.options.rare_mass)
            kept[TEXT], kept[RARE] = _losses(lab, checkpoint, rare)
            metrics |= {name: mean(kept[name]) for name in (TEXT, RARE) if kept[name]}
        if lab.unprompted:
            draws = [self._draw(lab, checkpoint, i) for i in range(self.options.draws)]
            for name in draws[0][0]:
                kept[name] = [values[name] for values, _ in draws]
                metrics[name] = _over_draws(kept[name])
            kept["length"] = [float(n) for _, lengths in draws for n in lengths]
        return with_series(found(self.name, checkpoint, metrics), kept)

    def _draw(self, lab: Lab, checkpoint: Checkpoint, draw: int) -> tuple[dict[str, float], list[int]]:
        """(what one sampling of unprompted text shows, lengths of its texts)."""
        o = self.options
        sampling = Sampling(o.samples, 1.0, max_tokens=o.max_tokens)
        rows: list[Rollout] = lab.sample(checkpoint, sampling, draw)
        texts: list[Ids] = [r.completion_ids for r in rows]
        every = [*texts]
        for wave in range(1, WAVES):  # of short texts more are needed
            if sum(map(len, every)) >= o.tokens:
                break
            every += [r.completion_ids for r in lab.sample(checkpoint, sampling, draw + wave * APART)]
        have = min(o.tokens, sum(map(len, every)))
        same = diversity.cut(every, have)
        shown = {
            "different 2-grams": float(diversity.unique_ngrams(same, 2)),
            "different 3-grams": float(diversity.unique_ngrams(same, 3)),
            "entropy": diversity.entropy(same),
            "share of the 50 most frequent tokens": diversity.top_mass(same),
            "compression": diversity.compression([lab.tokens.decode(t) for t in same]),
            "Vendi score": diversity.vendi(texts),
            "texts with a template": diversity.self_repetition(texts),
            "empty texts": fmean(not r.text.strip() for r in rows),
            LENGTH: fmean(map(len, texts)),
            COUNTED: float(have),
        }
        return shown, [len(t) for t in texts]

    def judge(self, base: Report, past: Sequence[Report], now: Report) -> Opinion:
        o = self.options
        signals = [
            Signal(RARE, "up", o.rare_effect, relative=False),
            Signal("different 2-grams", "down", o.ngrams_effect),
            Signal("different 3-grams", "down", o.ngrams_effect),
            Signal("entropy", "down", o.entropy_effect),
            Signal(LENGTH, "down", o.length_effect),
        ]
        amounts = {*series(base, COUNTED), *series(now, COUNTED)}  # numbers grow with the text that they are counted in
        missing = self._missing(amounts)
        told = (RARE, LENGTH)  # which do not depend on how much text there is
        known = {s.name: s for s in signals if s.name in base.metrics and s.name in now.metrics
                 and (s.name in told or not missing) and (s.name != LENGTH or base.metrics[LENGTH].value)}  # fmt: skip
        if not known:
            return Opinion("inconclusive", f"there is no real text, and {missing}")
        # The loss on given texts has no noise of sampling, so there the declared effect alone decides.
        reference = {n: [base.metrics[n].value] * 4 if n == RARE else series(base, n) for n in known}
        rounds = [self._values(r, [n for n in known if n in told or {*series(r, COUNTED)} <= amounts])
                  for r in (*past, now)]  # fmt: skip
        raised = alarm(list(known.values()), reference, rounds)
        more = {}
        if lengths := series(now, "length"):
            apart = diversity.ks(series(base, "length"), lengths)
            more["KS distance of lengths"] = Metric(apart, len(lengths), apart, apart)
        if raised:
            about = (past[-1].subject,) if past else ()
            return Opinion("failed", "alarm: " + "; ".join(raised), about, more)
        once = alarm(list(known.values()), reference, [rounds[-1], rounds[-1]])
        said = "beyond its limit in this round, and the alarm wants two: " + ", ".join(
            s.partition(" went")[0] for s in once
        )
        why = missing or ("" if RARE in known else "there is no real text")
        left = f" ({len(known)} of {len(signals)} signals: {why})" if why else ""
        return Opinion("passed", (said if once else f"{len(known)} signals are quiet") + left, (), more)

    def _values(self, report: Report, names: Sequence[str]) -> dict[str, float]:
        return {n: report.metrics[n].value for n in names if n in report.metrics}

    def _missing(self, amounts: set[float]) -> str:
        """Why what was written unprompted cannot be compared, or ""."""
        if not amounts:
            return "nothing can be sampled unprompted"
        if len(amounts) == 1 and max(amounts) > 0:
            return ""
        least, most = min(amounts), max(amounts)
        return f"samples of unprompted text hold {least:,.0f} to {most:,.0f} tokens, which cannot be compared"


def _losses(lab: Lab, checkpoint: Checkpoint, rare: frozenset[int]) -> tuple[list[float], list[float]]:
    """Nats per token of each real text, and per rare token of each text that has one."""
    every, of_rare = [], []
    for ids, row in zip(lab.texts, lab.score(checkpoint, lab.texts), strict=True):
        if row:
            every.append(-fmean(row))
        if some := [p for i, p in zip(ids[1:], row, strict=True) if i in rare]:
            of_rare.append(-fmean(some))
    return every, of_rare


def _over_draws(values: Sequence[float]) -> Metric:
    middle, half = fmean(values), T_975[len(values) - 1] * stdev(values) / len(values) ** 0.5
    return Metric(middle, len(values), middle - half, middle + half)
