"""Hold a run's record against itself: chain, bytes, counts, audits, decision. Reads only; names what is wrong.

A chain shows edits, deletions and reorderings. It cannot show that its writer made all of it anew: for that, note the
head (``selftaught verify`` prints it) where the trainer cannot write, and pass it to ``verify`` later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selftaught import gate, ledger
from selftaught.auditing import BROKE, make_audits
from selftaught.audits.base import Audit, Opinion
from selftaught.errors import IntegrityError, SelftaughtError
from selftaught.evaluate import METRIC_OF, main_metric
from selftaught.rows import read_rows
from selftaught.store import GENESIS, file_digest, linked, read_lines
from selftaught.trends import as_said, audits
from selftaught.trial import NAME as TRIALS
from selftaught.trial import read_trials
from selftaught.types import Audited, Decision, Example, Item, Metric, Report, Round, Tried, Verdict


@dataclass(frozen=True)
class Check:
    """One question put to the record, its answer, and what was found."""

    name: str
    ok: bool
    detail: str


def verify(folder: Path, head: str | None = None) -> list[Check]:
    """Every check on one run. ``head`` is a head noted earlier (or its first digits): it must still be in the chain."""
    try:
        record = ledger.open_run(folder)
    except IntegrityError as error:
        return [Check("chain", False, error.message)]
    checks: tuple[tuple[str, Callable[[ledger.RunRecord], Iterable[str]]], ...] = (
        ("files", _files),
        ("recipe", _recipe),
        ("journal", _journal),
        ("counts", _counts),
        ("weights", _weights),
        ("answers", _answers),
        ("trials", _trials),
        ("audits", _audits),
        ("decision", _decision),
        ("looks", _looks),
    )
    hashes = [e["hash"] for e in record.chain]
    found = [Check("chain", True, f"{len(hashes)} entries, head {hashes[-1] if hashes else GENESIS}")]
    if head is not None:
        kept = any(h.startswith(head) for h in (GENESIS, *hashes))
        found.append(Check("noted head", kept, "it is in the chain" if kept else f"{head} is not in the chain"))
    return found + [_ask(name, check, record) for name, check in checks]


def _ask(name: str, check: Callable[[ledger.RunRecord], Iterable[str]], record: ledger.RunRecord) -> Check:
    """The faults that ``check`` yields, or "as recorded"; damage it trips over is a fault as well."""
    try:
        faults = list(check(record))
    except (SelftaughtError, OSError, KeyError, ValueError) as error:
        faults = [str(error).splitlines()[0] if str(error) else type(error).__name__]
    shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
    return Check(name, not faults, shown or "as recorded")


def _files(record: ledger.RunRecord) -> Iterable[str]:
    """Every committed file is there with its bytes, and no unit's folder holds a file that was not committed."""
    for entry in record.chain:
        if "place" not in entry:
            continue
        folder = record.path / entry["place"]
        for relative, expected in entry["files"].items():
            path = folder / relative
            if linked(folder, relative):
                yield f"{path} is reached by a link: what it leads to is not the record"
            elif not path.is_file():
                yield f"{path} is missing"
            elif file_digest(path) != expected:
                yield f"{path} is not what was recorded"
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
        yield from (f"{folder / name} was never committed" for name in sorted(there - set(entry["files"])))


def _recipe(record: ledger.RunRecord) -> Iterable[str]:
    if record.facts("tasks").get("recipe.yaml") not in (None, file_digest(record.path / "recipe.yaml")):
        yield "recipe.yaml is not the recipe that the run began with"


def _journal(record: ledger.RunRecord) -> Iterable[str]:
    """Each entry quotes the head of its moment: a chain that was cut short or made anew lacks some of them."""
    if record.rounds and not record.journal:
        yield "it is empty or gone, though the run has come to a decision"
    if record.lost:
        yield f"{len(record.lost)} entries of the journal quote a chain that is not there (the first: {record.lost[0]})"


def _counts(record: ledger.RunRecord) -> Iterable[str]:
    """Kept + rejected = made, and every rejected example has its reason."""
    for entry in record.units("examples"):
        folder, counts = record.path / entry["place"], entry["facts"]["counts"]
        kept, rejected = (len(read_rows(folder / f"{name}.parquet", Example)) for name in ("kept", "rejected"))
        if kept + rejected != counts["made"]:
            yield f"{kept} kept + {rejected} rejected are not {counts['made']} made"
        reasons = sum(bool(v.reason) for v in read_rows(folder / "verdicts.parquet", Verdict))
        if reasons != rejected:
            yield f"{rejected} rejected, {reasons} with a reason"


def _weights(record: ledger.RunRecord) -> Iterable[str]:
    """No tensor of a candidate holds NaN or infinity."""
    for entry in record.units("candidate"):
        for path in sorted((record.path / entry["place"]).rglob("*.safetensors")):
            yield from (f"{path}: {name} is not finite" for name in _not_finite(path))


def _not_finite(path: Path) -> list[str]:
    import torch
    from safetensors.torch import load_file

    return [name for name, tensor in load_file(path).items() if not torch.isfinite(tensor).all()]


def _answers(record: ledger.RunRecord) -> Iterable[str]:
    """What a report counts, and the decision rests on, are the scores of its items."""
    for entry in record.units("evaluation"):
        if "items.parquet" not in entry["files"]:  # of format 1
            continue
        folder = record.path / entry["place"]
        report, items = ledger.read_report(folder / "report.json"), read_rows(folder / "items.parquet", Item)
        counted = list(zip(report.items, report.groups, report.scores, strict=True))
        if counted != [(i.id, i.group, i.score) for i in items]:
            yield f"{folder}: the report's scores are not those of its items"
        elif items and not math.isclose(main_metric(report).value, sum(report.scores) / len(items), abs_tol=1e-9):
            yield f"{folder}: the report's {METRIC_OF[report.unit]} is not the mean of its scores"


def _trials(record: ledger.RunRecord) -> Iterable[str]:
    """What adapters said, where it is kept beside the chain, is as it was written, and holds what the units hold."""
    path = record.path / TRIALS
    if not path.exists():
        return
    judged = record.recipe.roles.judge is not None  # who says what is right in the units, and not in the file

    def plain(row: Tried) -> Tried:
        return replace(row, right=0.0) if judged else row

    kept = {plain(r) for rows in read_trials(path).values() for r in rows}
    for entry in record.units("trials"):
        rows = read_rows(record.path / entry["place"] / "rows.parquet", Tried)
        lacking = sum(plain(r) not in kept for r in rows)
        if lacking:
            yield f"{lacking} of {len(rows)} answers of {entry['place']} do not stand in {path}"


def _audits(record: ledger.RunRecord) -> Iterable[str]:
    """Every audit, asked again with the recorded reports, says the same, and the gate heard what it said.

    One that is of another version here is not asked.
    """
    known = {a.name: a for a in make_audits(record.recipe)}
    everywhere = {a.name for done in record.rounds for a in audits(record, done)}
    for done in (r for r in record.rounds if r.candidate and r.decision.rules):
        said = {a.name: a for a in audits(record, done)}
        wanted = everywhere | {a.name for a in known.values() if a.options.gating and not a.options.skip}
        yield from (f"round {done.index} has no audit {name}" for name in sorted(wanted - said.keys()))
        for name, recorded in said.items():
            if name in known and known[name].version == recorded.version:
                yield from _audit(record, done, known[name], recorded)
        heard = {r.name: r.passed for r in done.decision.rules if r.name.startswith("audit: ")}
        deciding = {f"audit: {n}": a.outcome in ("passed", "not applicable") for n, a in said.items() if a.decides}
        if heard != deciding:
            yield f"round {done.index} decided by {_listed(heard)}; its audits decide by {_listed(deciding)}"


def _listed(rules: Mapping[str, bool]) -> str:
    return ", ".join(f"{name} {'passed' if ok else 'not passed'}" for name, ok in sorted(rules.items())) or "no audit"


def _audit(record: ledger.RunRecord, done: Round, audit: Audit, recorded: Audited) -> Iterable[str]:
    if audit.options.skip:
        again = as_said(audit, "", Opinion("not applicable", audit.options.skip), None, None)
    elif recorded.reason.startswith(BROKE):  # there is no report to ask
        again = as_said(audit, done.candidate or "", Opinion("failed", recorded.reason), None, None)
    else:
        reports = {e["facts"]["subject"]: ledger.read_report(record.path / e["place"] / "report.json")
                   for e in record.units("measured") if e["facts"]["audit"] == audit.name}  # fmt: skip
        base, now = reports.get(record.facts("tasks")["model"]), reports.get(done.candidate or "")
        if base is None or now is None:
            yield f"round {done.index} has no reports for what {audit.name} said"
            return
        earlier = [r.candidate for r in record.rounds[: done.index] if r.decision.outcome in ledger.GOOD]
        opinion = audit.judge(base, [reports[c] for c in earlier if c in reports], now)
        again = as_said(audit, now.subject, opinion, base, now)
    if again.outcome != recorded.outcome:
        yield f"round {done.index}: {audit.name} is recorded as {recorded.outcome}; its reports say {again.outcome}"
    elif _without_figures(again) != _without_figures(recorded) or not all(
        _close(getattr(again, side), getattr(recorded, side)) for side in ("before", "after")
    ):
        yield f"round {done.index}: what {audit.name} recorded is not what its reports say"


def _without_figures(audited: Audited) -> Audited:
    return replace(audited, before={}, after={})


def _close(one: Mapping[str, Metric], other: Mapping[str, Metric]) -> bool:
    """Equal up to what another machine's arithmetic may change."""
    return one.keys() == other.keys() and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
        for name in one
        for a, b in zip(asdict(one[name]).values(), asdict(other[name]).values(), strict=True)
    )


def _decision(record: ledger.RunRecord) -> Iterable[str]:
    """The gate, asked again with the recorded answers, says the same."""
    for done in record.rounds:
        if not done.decision.rules:
            continue
        again = decide_again(record, done)
        if asdict(again) != asdict(done.decision):
            yield f"round {done.index} is recorded as {done.decision.outcome}; its reports say {again.outcome}"


def decide_again(record: ledger.RunRecord, done: Round) -> Decision:
    """The decision on a round from its recorded reports, and what audits said, alone."""
    config, reports = record.recipe.gate, record.reports(done)
    pairs: dict[str, tuple[Report, Report]] = {
        suite: (before, reports["candidate", suite]) for (role, suite), before in reports.items() if role == "parent"
    }
    named = [r.name.removeprefix("guard: ") for r in done.decision.rules if r.name.startswith("guard: ")]
    margins = _margins(config.guards, [(name, pairs[name][0].unit) for name in named])
    guards = {name: (*pairs[name], m) for name, m in margins.items()}
    decision = gate.decide(config, pairs.get("dev"), guards, audits(record, done), record.recipe.train.checkpoints)
    if decision.outcome != "accepted" or not done.looks:
        return decision
    empty = Report("evaluation", "vault", done.candidate or "", "vault")
    return gate.prove(decision, config, *pairs.get("vault", (empty, empty)), done.looks["look"])


def _margins(guards: Any, suites: list[tuple[str, str]]) -> Mapping[str, float]:
    """Guard -> margin, in the order of ``suites`` (name, unit)."""
    if guards == "auto":
        return {name: gate.TEXT_MARGIN if unit == "nats" else gate.MARGIN for name, unit in suites}
    given = {g.suite: g.margin for g in guards}
    return {name: given[name] for name, _ in suites}


def _looks(record: ledger.RunRecord) -> Iterable[str]:
    """The look that a round spent stands in the registry beside the data."""
    for done in record.rounds:
        if not done.looks:
            continue
        registry = ledger.registry(record.recipe, record.path)
        vault = record.facts("tasks")["vault"]
        mine = [e for e in read_lines(registry) if (e.get("vault"), e.get("candidate")) == (vault, done.candidate)]
        if done.looks["look"] not in [e.get("look") for e in mine]:
            yield f"look {done.looks['look']} of round {done.index} does not stand in {registry}"
