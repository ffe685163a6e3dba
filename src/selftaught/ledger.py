"""What happened in a run, read from its chain: rounds, decisions, the current checkpoint. Writing is one function.

The current checkpoint is computed, not stored: it is the candidate of the last accepted round, or the base. So a
rejection undoes nothing, and a crash cannot leave a pointer at odds with the record.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from selftaught import champions, lock
from selftaught.config import Recipe, read_recipe
from selftaught.errors import IntegrityError, RunError, SelftaughtError, disk_is_full
from selftaught.store import (
    DAMAGED,
    GENESIS,
    Store,
    append_line,
    check_files,
    file_digest,
    make_folder,
    mend,
    read_chain,
    read_lines,
)
from selftaught.types import Checkpoint, Decision, Labels, Metric, Report, Round, Rule, as_json, digest

LOOKS = "looks.jsonl"
NUMBER = "number"  # the file in a run's folder that says how many runs were begun there before it, plus one
SKETCH = 128  # question ids by which a vault is known again
ENDS = ("stopped", "broken", "paused", "waiting")  # how an attempt ends before the run is over
GOOD = ("accepted", "proved", "promoted")
# 2 usage, 6 locked, 7 integrity: errors.py
EXIT_CODES = {
    "accepted": 0,
    "proved": 0,
    "promoted": 0,
    "broken": 1,
    "paused": 3,
    "stopped": 4,
    "rejected": 5,
    "unproven": 8,
    "nothing to train on": 9,
    "no change": 11,
    "waiting": 10,
}


def record(store: Store, done: Round) -> None:
    """Commit a round. From here on it happened."""
    store.append("round", place_of(done.index), {"round": as_json(done)})


def place_of(index: int) -> str:
    """The folder of a round."""
    return f"round-{index:03d}"


def is_over(recipe: Recipe, rounds: Sequence[Round]) -> bool:
    """Whether a run with these rounds is at its end: all are done, or ``patience`` of them in a row led nowhere."""
    last = rounds[-recipe.patience :]
    idle = len(last) == recipe.patience and not any(r.decision.outcome in GOOD for r in last)
    return len(rounds) >= recipe.rounds or idle


def checkpoint(folder: Path, facts: Mapping[str, Any], base: Checkpoint, parent: Checkpoint) -> Checkpoint:
    """A candidate as it lies in its unit's folder: a full model, or an adapter on the run's base."""
    weights = str(folder / facts["kind_folder"])
    lora = facts["kind"] == "lora"
    return Checkpoint(facts["digest"], base.model if lora else weights, weights if lora else None, parent.digest)


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read. Nothing here is written back."""

    path: Path
    recipe: Recipe
    chain: Sequence[Mapping[str, Any]]
    journal: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def rounds(self) -> list[Round]:
        return [_round(e["round"]) for e in self.chain if e["kind"] == "round"]

    @property
    def final(self) -> Round | None:
        """The round that says what came of the run: the last accepted one, whose candidate stands; else the last."""
        good = [r for r in self.rounds if r.decision.outcome in GOOD]
        return (good or self.rounds)[-1] if self.rounds else None

    @property
    def over(self) -> bool:
        return is_over(self.recipe, self.rounds)

    @cached_property
    def outcome(self) -> str:
        """The final round's outcome; before the run's end: "running", or how the last attempt ended."""
        if is_locked(self.path):
            return "running"
        if self.final is not None and self.over:
            return "promoted" if self._is_champion else self.final.decision.outcome
        marks = [e["event"] for e in self.journal if e["event"] in ("started", "resumed", *ENDS)]
        return str(marks[-1]) if marks and marks[-1] in ENDS else "stopped"  # killed: it ended without a word

    @property
    def _is_champion(self) -> bool:
        found = champions.champion(self.path.parent)
        return bool(found and self.final and (found["run"], found["candidate"]) == (self.name, self.final.candidate))

    @property
    def labels(self) -> Labels:
        each = [r.labels for r in self.rounds] or [Labels()]
        return Labels(*(any(getattr(x, f.name) for x in each) for f in fields(Labels)))

    @property
    def lost(self) -> list[str]:
        """Events that quote a head which is not in the chain: it was cut short or made anew since."""
        known = {GENESIS, *(e["hash"] for e in self.chain)}
        return [str(e.get("event")) for e in self.journal if e.get("head") not in known]

    def units(self, kind: str, of: Round | None = None) -> list[Mapping[str, Any]]:
        """Committed chain entries of a kind (of one round), oldest first.

        ``place`` is the folder, ``facts`` what was recorded.
        """
        inside = f"{place_of(of.index)}/" if of else ""
        return [e for e in self.chain if e["kind"] == kind and e.get("place", "").startswith(inside)]

    def facts(self, kind: str, of: Round | None = None) -> Mapping[str, Any]:
        """Facts of the last unit of a kind, or {}."""
        found = self.units(kind, of)
        return found[-1]["facts"] if found else {}

    def evaluations(self, of: Round | None = None) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Evaluation units of a round (the final one) by (role, suite): ("parent" | "candidate", "dev" | guard | ...).

        "parent" is what the candidate was compared with: see types.Round.
        """
        of = of or self.final
        if of is None or not of.evaluations:  # it is not judged yet, or was in the days of one round
            units_of = self.units("evaluation", of if len(self.rounds) > 1 else None)
            return {(e["facts"]["role"], e["facts"]["suite"]): e for e in units_of}
        units = {e["unit"]: e for e in self.units("evaluation")}
        roles = ("parent", "candidate")
        return {(role, suite): units[u] for suite, pair in of.evaluations.items()
                for role, u in zip(roles, pair, strict=True)}  # fmt: skip

    def reports(self, of: Round | None = None) -> dict[tuple[str, str], Report]:
        """The reports of ``evaluations``. Raises IntegrityError when their bytes are not what was recorded."""
        found = {}
        for key, entry in self.evaluations(of).items():
            check_files(self.path / entry["place"], entry["files"])
            found[key] = read_report(self.path / entry["place"] / "report.json")
        return found

    @property
    def trained(self) -> Mapping[str, Any] | None:
        """The unit of the final round's candidate (of the last one that was trained, where no round is recorded)."""
        found = self.units("candidate", self.final)
        return found[-1] if found else None

    @property
    def kept(self) -> Path | None:
        """The folder that holds the candidate's weights, if training finished: "adapter" or "model" inside it."""
        return self.path / self.trained["place"] / self.trained["facts"]["kind_folder"] if self.trained else None

    def check_candidate(self) -> None:
        """Raises IntegrityError when a candidate's bytes are not what was recorded."""
        for entry in self.units("candidate"):
            check_files(self.path / entry["place"], entry["files"])


def read_report(path: Path) -> Report:
    data = json.loads(path.read_text(encoding="utf-8"))
    data["metrics"] = {k: Metric(**v) for k, v in data["metrics"].items()}
    for name in ("scores", "items", "groups"):
        data[name] = tuple(data[name])
    return Report(**data)


def _round(data: Mapping[str, Any]) -> Round:
    decision = data["decision"]
    rules = tuple(Rule(**r) for r in decision["rules"])
    return Round(
        **{
            **data,
            "decision": Decision(decision["outcome"], rules, decision["reason"]),
            "labels": Labels(**data["labels"]),
            "evaluations": {name: tuple(pair) for name, pair in data.get("evaluations", {}).items()},
        }
    )


def open_run(folder: Path) -> RunRecord:
    """A run folder as it lies there. Raises IntegrityError when the chain does not hold together."""
    journal = read_lines(folder / "journal.jsonl")  # before the chain, which a run that is on writes first
    return RunRecord(folder, read_recipe(folder / "recipe.yaml"), read_chain(folder), journal)


def read_run(folder: Path) -> RunRecord:
    """``open_run``, and IntegrityError when recipe and journal are not those of this chain either."""
    record = open_run(folder)
    began = record.facts("tasks").get("recipe.yaml")
    if began not in (None, file_digest(folder / "recipe.yaml")):
        raise IntegrityError(f"{folder} began with another recipe: recipe.yaml was edited.", hint=DAMAGED)
    if record.lost:
        raise IntegrityError(f"{folder / 'chain.jsonl'}: entries that the journal quotes are missing.", hint=DAMAGED)
    return record


def read_runs(root: Path) -> list[RunRecord]:
    """Every readable run under ``root``, oldest first; one damaged run hides no other."""
    found = []
    for folder in list_runs(root):
        with suppress(SelftaughtError):
            found.append(read_run(folder))
    return found


def find_run(name: str, root: Path) -> Path:
    """The folder of a run, by path or name under ``root``, "latest" or "champion". Raises RunError with names."""
    for candidate in (Path(name), root / name):
        if os.path.isfile(candidate / "recipe.yaml"):  # False, not an error, where we may not look
            return candidate
    known = list_runs(root)
    if name == "latest" and known:
        return known[-1]
    if name == "champion" and (best := champions.champion(root)):
        return root / str(best["run"])
    names = ", ".join(p.name for p in known[-5:]) or "none yet"
    raise RunError(f"No run called {name!r} here.", hint=f"Runs in {root}: {names}. Start one with: selftaught run")


def list_runs(root: Path) -> list[Path]:
    """Run folders under ``root``, in the order in which they were begun.

    That order is by the number that each got then, not by a clock, which may be set; two that began at once may have
    the same one, and stand by name. Runs that have none, from before there were numbers, come first, by age.
    """
    found = [p.parent for p in root.glob("*/recipe.yaml")] if root.is_dir() else []
    return sorted(found, key=_place)


def _place(folder: Path) -> tuple[int, float, str]:
    number = _number(folder)
    return number, 0.0 if number else (folder / "recipe.yaml").stat().st_mtime, folder.name


def _number(folder: Path) -> int:
    with suppress(OSError, ValueError):
        return max(0, int((folder / NUMBER).read_bytes()))
    return 0


def next_number(root: Path) -> int:
    """The number of a run that begins now: one more than the highest under ``root``."""
    return 1 + max(map(_number, list_runs(root)), default=0)


def is_locked(folder: Path) -> bool:
    """Whether a process works in the run folder right now. Writes nothing."""
    return lock.is_held(folder / "lock")


# ---------------------------------------------------------------- looks at a vault


def registry(recipe: Recipe, folder: Path) -> Path:
    """Where looks are counted: beside the file the vault comes from; beside the runs where questions are generated."""
    options = recipe.tasks.options
    if not options.get("path"):
        return folder.parent / LOOKS
    path = Path(options.get("holdout") or options["path"]).expanduser().resolve()
    return path.with_name(f".{path.name}.{LOOKS}")


def tests_registry(recipe: Recipe, folder: Path) -> Path:
    """Where it is noted that a test holdout was opened: beside the looks."""
    looks = registry(recipe, folder)
    return looks.with_name(looks.name.removesuffix(LOOKS) + "tests.jsonl")


def spend_look(
    registry: Path, vault: Sequence[str], candidate: str, run: str, *, share: float = 1.0, asked: str = ""
) -> int:
    """Which look (1, 2, ...) at this vault this candidate is, shared by every run that uses these questions.

    ``vault`` holds the ids of all its questions; a vault that shares a tenth of them or more is the same one, so that
    a row more or another seed for the split does not make it new. ``share`` is the part of alpha that a look may use
    (alpha / K): what earlier looks used counts in full, so that a larger K later buys none. The same candidate on the
    same questions (``asked``) is counted once, so a resumed or repeated run is not charged twice. The look is on disk
    before its result is known. ``registry`` lies beside the data.
    """
    with _turn(registry, "Looks at the vault are counted"):
        earlier = looks_at(registry, vault)
        for entry in earlier:
            if (entry["candidate"], entry.get("asked", "")) == (candidate, asked):
                return int(entry["look"])
        look = 1 + math.ceil(spent(earlier, share) - 1e-9)
        entry = {"vault": digest(sorted(vault)), "sketch": _sketch(vault), "asked": asked, "share": share}
        append_line(registry, {**entry, "candidate": candidate, "look": look, "run": run})
    return look


def open_test(registry: Path, test: Sequence[str], candidate: str, run: str) -> None:
    """Put on record that a test holdout with these question ids is opened for this candidate, before it is asked.

    It is known again as a vault is, and counts once however often the same candidate comes. Raises RunError naming the
    run, and writes nothing, where another candidate opened it (or one that shares a tenth of its questions).
    """
    name = digest(sorted(test))
    with _turn(registry, "That a test holdout was opened is noted"):
        for entry in looks_at(registry, test):
            if entry["candidate"] != candidate:
                raise RunError(
                    f"This test holdout was opened for {entry['run']}; a test set is opened once.",
                    hint="Judge new models on dev and vault, and keep fresh questions for the next test.",
                )
            if entry["vault"] == name:
                return
        entry = {"vault": name, "sketch": _sketch(test), "candidate": candidate, "look": 1, "run": run}
        append_line(registry, entry)


@contextmanager
def _turn(registry: Path, what: str) -> Iterator[None]:
    """Alone with a registry, its last line whole. Raises RunError where it cannot be written."""
    try:
        make_folder(registry.parent)
        with lock.turn(registry.with_name(registry.name + ".lock")):
            mend(registry)
            yield
    except OSError as error:
        if disk_is_full(error):
            raise
        raise RunError(f"{what} in {registry}, which cannot be written: {error.strerror}.",
                       hint="Allow it, or copy the questions to a folder of your own.") from error  # fmt: skip


def looks_at(registry: Path, vault: Sequence[str]) -> list[dict[str, Any]]:
    """The looks so far at the vault with these question ids, or at one that shares a tenth of its questions."""
    name, sketch = digest(sorted(vault)), set(_sketch(vault))
    return [e for e in _looks(registry) if e["vault"] == name or _overlap(sketch, set(e.get("sketch", ()))) >= 0.1]


def spent(looks: Sequence[Mapping[str, Any]], share: float) -> float:
    """How many looks of ``share`` alpha each the recorded ones amount to."""
    return sum(float(e.get("share", share)) for e in looks) / share


def _sketch(vault: Sequence[str]) -> list[str]:
    """The smallest ids, which stand for all (bottom-k sampling, Cohen and Kaplan 2007); ids are hashes already."""
    return sorted(vault)[:SKETCH]


def _overlap(one: set[str], other: set[str]) -> float:
    """Estimated share of the questions of both that stand in each: common ones among the smallest of the union."""
    smallest = sorted(one | other)[: max(len(one), len(other))]
    return sum(q in one and q in other for q in smallest) / len(smallest) if smallest else 0.0


def _looks(registry: Path) -> list[dict[str, Any]]:
    entries = read_lines(registry)
    for number, entry in enumerate(entries, start=1):
        if not {"vault", "candidate", "look"} <= entry.keys():
            raise IntegrityError(f"{registry}, line {number}: not a look.", hint="Restore the file from a copy.")
    return entries
