"""What ``import selftaught`` offers, and what each command calls: one function per command, nothing printed.

    import selftaught
    record = selftaught.run("self_consistency", "train.lr=1e-4", seed=3)
    print(record.outcome, record.kept)
    print(selftaught.ask(record, "17+25+40+8").after)

Runs lie in ``./runs``; ``runs=`` or the environment variable SELFTAUGHT_RUNS names another folder. Errors are those of
errors.py; one that ends a run carries notes that say how to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.catalogue import RecipeInfo as RecipeInfo
from selftaught.catalogue import recipes as recipes
from selftaught.catalogue import resolve as resolve
from selftaught.config import Recipe, read_recipe
from selftaught.engines.base import StopToken, never
from selftaught.errors import (
    DataError,
    IntegrityError,
    ModelError,
    RunError,
    RunLocked,
    SelftaughtError,
    Stopped,
    Waiting,
    noticing_a_full_disk,
)
from selftaught.ledger import RunRecord, find_run, is_locked, list_runs, read_run
from selftaught.mishaps import save_traceback
from selftaught.view import Silent, View

if TYPE_CHECKING:
    from selftaught.exam import Exam
    from selftaught.inspection import Inspection
    from selftaught.integrity import Check
    from selftaught.look import Findings
    from selftaught.people import Imported, Queue
    from selftaught.promotion import Promotion

DEFAULT = "self_consistency"


@dataclass(frozen=True)
class Answers:
    """The parent's and the candidate's greedy completions of one question."""

    before: str
    after: str


@dataclass(frozen=True)
class Started:
    """What ``init`` found and wrote. ``problem`` says why there is no sample, when the model cannot be used."""

    findings: Findings
    out: Path
    model: str
    prompt: str = ""
    completion: str = ""
    answer: str | None = None
    problem: str = ""


# ---------------------------------------------------------------- runs


def run(recipe: str | Path | Recipe = DEFAULT, *overrides: str, runs: str | Path | None = None,
        view: View | None = None, stop: StopToken = never, **settings: Any) -> RunRecord:  # fmt: skip
    """Run a recipe (a path, a bundled name or a Recipe) in a new folder and return its record.

    ``overrides`` are the command's KEY=VALUE; ``settings`` say the same in Python: ``seed=3, train={"lr": 1e-4}``.
    Raises Stopped when ``stop()`` became true or a file ``stop`` lies in the run's folder, Waiting where people must
    answer first; ``resume`` goes on from there. The process of the command also ends what cannot stop in order; here
    a step of a large model or a checker of yours is waited for.
    """
    chosen = resolve(recipe, [*overrides, *_dotted(settings)])
    from selftaught import loop

    folder = _new_folder(chosen.name, runs_root(runs))
    try:
        loop.prepare(chosen, folder, stop=stop)
        return _finish(folder, view, stop)
    except BaseException:
        _forget(folder)
        raise


def resume(run: str | Path | RunRecord = "latest", *, runs: str | Path | None = None, view: View | None = None,
           stop: StopToken = never) -> RunRecord:  # fmt: skip
    """Go on with a run that was stopped or broke; a finished one is returned as it is. Repeats nothing that is done."""
    return _finish(_folder(run, runs), view, stop)


def plan(recipe: str | Path | Recipe = DEFAULT, overrides: Sequence[str] = (), **settings: Any) -> dict[str, Any]:
    """What a run would do, without running it: recipe, sizes, the gain each holdout can prove or None, items needed."""
    chosen = resolve(recipe, [*overrides, *_dotted(settings)])
    from selftaught import loop

    found = loop.plan(chosen)
    return {
        "recipe": found.recipe.model_dump(mode="json"),
        "sizes": dict(found.sizes),
        "provable": dict(found.provable),
        "needed": dict(found.needed),
        "notes": list(found.notes),
    }


def runs(
    root: str | Path | None = None, *, damaged: Callable[[Path, SelftaughtError], None] | None = None
) -> list[RunRecord]:
    """Every run, oldest first. A damaged one raises its error, or goes to ``damaged`` if that is given."""
    found = []
    for folder in list_runs(runs_root(root)):
        try:
            found.append(read_run(folder))
        except SelftaughtError as error:
            if damaged is None:
                raise
            damaged(folder, error)
    return found


def show(run: str | Path | RunRecord = "latest", *, runs: str | Path | None = None) -> RunRecord:
    """The record of one run, by name, path or "latest"."""
    return read_run(_folder(run, runs))


def ask(run: str | Path | RunRecord, question: str, *, runs: str | Path | None = None) -> Answers:
    """One question to the parent and to the candidate of a run."""
    from selftaught import loop

    return Answers(*loop.ask(_folder(run, runs), question))


def write_report(run: str | Path | RunRecord = "latest", *, runs: str | Path | None = None) -> Path:
    """Write report.html into the run's folder. (Not called ``report``: that is the module behind it.)"""
    from selftaught import report

    folder = _folder(run, runs)
    try:
        with noticing_a_full_disk(folder):
            return report.write_report(folder)
    except OSError as error:
        raise RunError(f"The report cannot be written to {folder}: {error.strerror}.",
                       hint="Allow it, or copy the run's folder.") from error  # fmt: skip


def review(run: str | Path | RunRecord = "latest", *, runs: str | Path | None = None) -> Queue:
    """What a run asks people and has no verdict on yet."""
    from selftaught import people

    return people.queue(_folder(run, runs))


def import_verdicts(run: str | Path | RunRecord, file: str | Path, by: str, *,
           runs: str | Path | None = None) -> Imported:  # fmt: skip
    """Give a run the verdicts of a person from a file: its queue, filled in. The run may be on or not."""
    from selftaught import people

    return people.import_verdicts(_folder(run, runs), Path(file), by)


def examine(run: str | Path | RunRecord = "latest", file: str | Path | None = None, *, test: bool = False,
            checker: str = "auto", runs: str | Path | None = None) -> Exam:  # fmt: skip
    """Both models of a run on a labelled file, or with ``test`` on its third holdout, which is opened once."""
    from selftaught import exam

    return exam.examine(read_run(_folder(run, runs)), Path(file) if file else None, test=test, checker=checker)


def audit(subject: str | Path | RunRecord = "latest", *overrides: str, base: str | None = None,
          private: str | Path | None = None, text: str | Path | None = None, runs: str | Path | None = None,
          view: View | None = None, stop: StopToken = never, **settings: Any) -> Inspection:  # fmt: skip
    """Every audit of a run's models, or of any model beside ``base``. ``private``: texts that it must not give away.

    ``text``: real text that it never learned. ``overrides`` are of the recipe: "audits.collapse.samples=100".
    """
    from selftaught import inspection

    changed = [*overrides, *_dotted(settings)]
    how: dict[str, Any] = {
        "private": private and Path(private),
        "text": text and Path(text),
        "view": view,
        "stop": stop,
    }
    found = subject if isinstance(subject, RunRecord) else inspection.find(str(subject), runs_root(runs))
    return inspection.inspect(found, changed, base, runs_root(runs), **how)


def promote(run: str | Path | RunRecord, by: str, reason: str = "", *, runs: str | Path | None = None) -> Promotion:
    """Approve a proved model; with enough approvals it is the champion, which commands know by that name."""
    from selftaught import promotion

    return promotion.promote(_folder(run, runs), by, reason)


def rollback(by: str, reason: str = "", *, runs: str | Path | None = None) -> str | None:
    """Take the last promotion back; returns the name of the run that is the champion now, or None."""
    from selftaught import promotion

    return promotion.rollback(runs_root(runs), by, reason)


def watch(folder: str | Path, recipe: str | Path | Recipe = DEFAULT, *overrides: str, once: bool = False,
          runs: str | Path | None = None, view: View | None = None,
          stop: StopToken = never) -> list[RunRecord]:  # fmt: skip
    """Runs on questions that arrive in a folder, within the recipe's ``watch`` envelope; ``once``: what is there."""
    from selftaught import arrivals

    return arrivals.watch(
        Path(folder), resolve(recipe, list(overrides)), runs_root(runs), once=once, view=view, stop=stop
    )


def stop(run: str | Path | RunRecord = "latest", *, wait: float = 0, runs: str | Path | None = None) -> Path:
    """Ask a run that is on, in whatever process, to end in order; returns the file that asks. ``resume`` goes on.

    ``wait``: the seconds to wait until it has ended; ``show(run).outcome`` says whether it has.
    """
    from selftaught import stopping

    folder = _folder(run, runs)
    if not is_locked(folder):
        raise RunError(f"{folder.name} is not running.", hint=f"See how it ended with: selftaught show {folder.name}")
    return stopping.ask(folder, wait)


def verify(run: str | Path | RunRecord = "latest", *, head: str | None = None,
           runs: str | Path | None = None) -> list[Check]:  # fmt: skip
    """Hold a run's record against itself, byte by byte; ``head`` is one noted earlier. Nothing is written."""
    from selftaught import integrity

    return integrity.verify(_folder(run, runs), head)


def export_model(run: str | Path | RunRecord, out: str | Path, *, anyway: bool = False,
           runs: str | Path | None = None) -> Path:  # fmt: skip
    """Copy a run's model to a new folder ``out``, with a card of its lineage and proof; ``anyway``: though rejected.

    (Not called ``export``: that is the module behind it.)
    """
    from selftaught.export import export

    return export(read_run(_folder(run, runs)), Path(out), anyway=anyway)


def export_data(run: str | Path | RunRecord, out: str | Path, *, runs: str | Path | None = None) -> Path:
    """Copy what a run's final round made to a new folder ``out``, kept and rejected, with a dataset card."""
    from selftaught.export import export_data

    return export_data(read_run(_folder(run, runs)), Path(out))


def doctor(runs: str | Path | None = None) -> list[Check]:
    """Whether this machine is fit for a run whose folder would lie in ``runs``."""
    from selftaught.doctor import examine

    return examine(runs_root(runs))


def runs_root(root: str | Path | None = None) -> Path:
    """Where runs lie: ``root``, else $SELFTAUGHT_RUNS, else ./runs."""
    return Path(root or os.environ.get("SELFTAUGHT_RUNS") or "runs")


def _folder(run: str | Path | RunRecord, root: str | Path | None) -> Path:
    if isinstance(run, RunRecord):
        return run.path
    home = runs_root(root)
    if str(run) == "latest" and not list_runs(home):
        raise RunError(f"There is no run in {home} yet.", hint="Start one with: selftaught run")
    return find_run(str(run), home)


def _new_folder(name: str, root: Path) -> Path:
    """``root/NAME-<n>`` with the smallest free n, made now, so that two runs starting together never share one."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            with contextlib.suppress(FileExistsError):
                (root / f"{name}-{number}").mkdir()
                return root / f"{name}-{number}"
            number += 1
    except OSError as error:
        raise RunError(f"Cannot make a run folder in {root}: {error.strerror}.",
                       hint="Choose another place with --runs DIR or SELFTAUGHT_RUNS.") from error  # fmt: skip


def _begun(folder: Path) -> bool:
    """Whether anything in a run folder is worth keeping: a committed unit or a traceback."""
    return any((folder / name).is_file() and (folder / name).stat().st_size for name in ("chain.jsonl", "error.txt"))


def _forget(folder: Path) -> None:
    """Remove a new run folder in which nothing was begun, so that a mistyped path does not leave a broken run."""
    if not _begun(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _finish(folder: Path, view: View | None, stop: StopToken) -> RunRecord:
    from selftaught import loop

    view = view or Silent()
    view.line(f"run {folder}")
    with _notes(folder):
        loop.run(folder, view=view, stop=stop)
        return read_run(folder)


@contextlib.contextmanager
def _notes(folder: Path) -> Iterator[None]:
    """Whatever leaves a run says how to go on; an error of ours that nobody foresaw also leaves its traceback there."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, (SelftaughtError, Stopped, Waiting, KeyboardInterrupt, GeneratorExit)):
            error.add_note(f"The traceback is in {save_traceback(error, folder)}")
        if _begun(folder) and not isinstance(error, (IntegrityError, RunLocked)):
            name = folder.name if folder.parent.resolve() == runs_root().resolve() else str(folder)
            if isinstance(error, Waiting):
                error.add_note(f"See what is asked, and give the verdicts: selftaught review {shlex.quote(name)}")
            error.add_note(f"What is finished is kept. Go on with: selftaught resume {shlex.quote(name)}")
        raise


def _dotted(settings: Mapping[str, Any], before: str = "") -> list[str]:
    """``{"train": {"lr": 1e-4}}`` as ["train.lr=0.0001"]: Python settings as the command's overrides."""
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += _dotted(value, f"{before}{key}.")
        else:
            text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
            found.append(f"{before}{key}={text}")
    return found


# ---------------------------------------------------------------- init


def init(file: str | Path, model: str | None = None, out: str | Path = "recipe.yaml", force: bool = False) -> Started:
    """Look at a file of questions, write a recipe for it, and try the model on its first question."""
    from selftaught.look import first_try, look, write_recipe

    findings = look(Path(file), model)
    written = write_recipe(findings, model, Path(out), force=force)
    recipe = read_recipe(written)
    try:
        return Started(findings, written, recipe.model, *first_try(recipe, findings))
    except (ModelError, DataError) as error:
        return Started(findings, written, recipe.model, problem=str(error))


def findings_json(started: Started) -> dict[str, Any]:
    """``init`` as one JSON object."""
    return json.loads(json.dumps(asdict(started), default=str)) | {"proof": started.findings.proof}  # type: ignore[no-any-return]
