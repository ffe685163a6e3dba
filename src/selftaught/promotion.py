"""Promote and roll back. A proved model becomes the champion when enough people approve; going back takes one person.

An approval is bound to the candidate's weights and to the head of its record: it does not count for anything else.
Names are what people typed; on a laptop nobody checks them, so keep the list where it can be seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from selftaught import champions, ledger
from selftaught.errors import IntegrityError, RunError
from selftaught.integrity import verify
from selftaught.trends import audits

NAME = re.compile(r"[\w.@ -]{1,64}")


@dataclass(frozen=True)
class Promotion:
    """``missing`` people have to approve yet; ``champion`` is the run that is the champion now, if any."""

    run: str
    candidate: str
    by: tuple[str, ...]
    missing: int
    champion: str | None


def promote(folder: Path, by: str, reason: str = "") -> Promotion:
    """Approve a run's model; with the approvals of ``promotion.people`` different people it is the champion.

    Raises RunError unless the run was proved, for a control whatever came of it, and where an audit that decides failed
    and named this model, in whatever round; IntegrityError when its record does not hold at this moment.
    """
    _check_name(by)
    record = ledger.read_run(folder)
    root = folder.parent
    if record.recipe.control != "none":
        raise RunError(f"{record.name} is a control ({record.recipe.control}): a control is never a champion.",
                       hint="Run the recipe without it: control=none")  # fmt: skip
    if record.outcome not in ("proved", "promoted") or record.final is None:
        raise RunError(f"{record.name} is {record.outcome}: only a proved model can become the champion.",
                       hint=f"See why with: selftaught show {record.name}")  # fmt: skip
    faults = [f"{c.name}: {c.detail}" for c in verify(folder) if not c.ok]
    if faults:
        raise IntegrityError(f"The record of {record.name} does not hold: {faults[0]}.",
                             hint=f"See: selftaught verify {record.name}")  # fmt: skip
    bound = {"run": record.name, "candidate": record.final.candidate or "", "head": record.chain[-1]["hash"]}
    _check_audits(record)
    with champions.turn(root):
        found = champions.entries(root)
        if by not in champions.approvals(found, **bound):
            champions.append(root, found, action="approved", by=by, reason=reason, **bound)
            found = champions.entries(root)
        people = champions.approvals(found, **bound)
        line = champions.line_of_succession(found)
        missing = max(0, record.recipe.promotion.people - len(people))
        if not missing and not (line and line[-1]["candidate"] == bound["candidate"]):
            champions.append(root, found, action="promoted", by=by, reason=reason, **bound)
    now = champions.champion(root)
    return Promotion(record.name, bound["candidate"], tuple(sorted(people)), missing, now["run"] if now else None)


def _check_audits(record: ledger.RunRecord) -> None:
    """A later round may say of an earlier model what its own could not: an alarm asks for two rounds running."""
    for done in record.rounds:
        for audit in audits(record, done):
            if audit.decides and record.final and record.final.candidate in audit.subjects:
                raise RunError(
                    f"{record.name}: the audit {audit.name} failed in round {done.index + 1}, and names this model:"
                    f" {audit.reason}.",
                    hint=f"See: selftaught report {record.name}",
                )


def rollback(root: Path, by: str, reason: str = "") -> str | None:
    """Take the last promotion back; returns the run that is the champion from now on, or None.

    Raises RunError when there is no champion, and IntegrityError when the weights of the one before are not those that
    were promoted: then nothing is changed.
    """
    _check_name(by)
    with champions.turn(root):
        found = champions.entries(root)
        line = champions.line_of_succession(found)
        if not line:
            raise RunError(f"There is no champion in {root}.", hint="Make one: selftaught promote RUN --by NAME")
        before = line[-2] if len(line) > 1 else None
        if before is not None:
            ledger.read_run(root / before["run"]).check_candidate()
        last = line[-1]
        bound = {"run": last["run"], "candidate": last["candidate"], "head": last["head"]}
        champions.append(root, found, action="rolled back", by=by, reason=reason, **bound)
    return str(before["run"]) if before else None


def _check_name(by: str) -> None:
    if not NAME.fullmatch(by):
        raise RunError(f"{by!r} is not a name.", hint="Letters, digits, spaces, dots, @ and -, at most 64: --by ana")
