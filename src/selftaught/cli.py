"""The command ``selftaught``. Each command calls one function of api.py; this file reads words and prints results.

Exit codes: 0 accepted or better (or done), 1 broken, 2 usage, recipe, data or model, 3 paused, 4 stopped, 5 rejected,
6 locked by another process, 7 the record does not hold together, 8 unproven, 9 nothing to train on, 10 waiting for
people, 11 no change.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selftaught import __version__
from selftaught.errors import SelftaughtError
from selftaught.terminal import (
    DEFAULT,
    Dry,
    Json,
    Named,
    Quiet,
    Run,
    Runs,
    Words,
    app,
    checked,
    command,
    console,
    dump,
    finish,
    said,
)

if TYPE_CHECKING:
    pass


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only shows "?", not an error
    app()


# ---------------------------------------------------------------- commands


@command
def run(words: Words = None, dry_run: Dry = False, json: Json = False, quiet: Quiet = False, runs: Runs = None) -> int:
    """Run a recipe and see whether the model got better.

    RECIPE is a path or a bundled name (default: self_consistency); KEY=VALUE changes a line of it:

    \b
      selftaught run
      selftaught run seed=1 name=mine train.lr=1e-4
      selftaught run recipe.yaml model=Qwen/Qwen3-0.6B --dry-run

    The exit code says what came of it: 0 the new model is better, 5 rejected, 8 unproven, 9 nothing to train on,
    10 waiting for people (selftaught review), 4 stopped (go on with: selftaught resume), 2 something to mend in what
    you typed.
    """
    from selftaught import api, live

    recipe, overrides = split_words(words or [])
    if dry_run:
        found = api.plan(recipe, overrides)
        return dump(found) if json else said(lambda tell: tell.plan(found))
    with live.showing(quiet, json) as (view, stop):
        record = api.run(recipe, *overrides, runs=runs, view=view, stop=stop)
    return finish(record, quiet, json)


def split_words(words: list[str]) -> tuple[str, list[str]]:
    """The recipe is the first word that is not KEY=VALUE, if there is one."""
    recipe = next((w for w in words if "=" not in w), DEFAULT)
    rest = list(words)
    if recipe in rest:
        rest.remove(recipe)
    return recipe, rest


@command
def resume(run: Run = "latest", json: Json = False, quiet: Quiet = False, runs: Runs = None) -> int:
    """Go on with a run that was stopped or broke.

    Takes the latest run unless you name one. What is finished is not repeated.
    """
    from selftaught import api, live

    with live.showing(quiet, json) as (view, stop):
        record = api.resume(run, runs=runs, view=view, stop=stop)
    return finish(record, quiet, json)


@command
def runs(json: Json = False, runs: Runs = None) -> int:
    """List the runs, newest last."""
    from selftaught import api, summary

    def damaged(folder: Path, error: SelftaughtError) -> None:
        print(f"{folder.name} cannot be read: {error}", file=sys.stderr)

    found = api.runs(runs, damaged=damaged)
    if json:
        return dump([summary.brief(record) for record in found])
    if not found:
        print(f"No runs in {api.runs_root(runs)} yet. Start one with: selftaught run")
        return 0
    summary.draw([summary.runs_block(found)], console())
    return 0


@command
def show(run: Run = "latest", json: Json = False, runs: Runs = None) -> int:
    """Show one run: the outcome, the proof, where the model is.

    Takes the latest run unless you name one.
    """
    from selftaught import api

    finish(api.show(run, runs=runs), quiet=False, json=json)
    return 0


@command
def ask(run: Named, question: Annotated[str, typer.Argument()], json: Json = False, runs: Runs = None) -> int:
    """Ask the model before and after a run.

    \b
      selftaught ask latest "17+25+40+8"
    """
    from selftaught import api, summary

    answers = api.ask(run, question, runs=runs)
    if json:
        return dump({"question": question, "before": answers.before, "after": answers.after})
    summary.draw_answers(answers.before, answers.after, console())
    return 0


@command
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, CSV or parquet; answers are optional.")],
    model: Annotated[str | None, typer.Option(help="A model folder, a hub id or bundled:NAME.")] = None,
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
    json: Json = False,
) -> int:
    """Look at your questions and write a recipe for them.

    Says what is in FILE, how it would be split and what it could prove, and tries the model on its first question.
    """
    from selftaught import api

    started = api.init(file, model, out, force)
    return dump(api.findings_json(started)) if json else said(lambda tell: tell.started(started, console()))


@command
def review(
    run: Run = "latest",
    verdicts: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="The queue, filled in: verdicts to take.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Whose verdicts they are.")] = "",
    json: Json = False,
    runs: Runs = None,
) -> int:
    """See what a run asks people, or give it their verdicts.

    The queue is a file of JSON lines. Copy it, set "ok" to true or false in each line (and "value" to a better text,
    or to the answer), and import it; when every line has its verdict: selftaught resume
    """
    from dataclasses import asdict

    from selftaught import api

    if verdicts is None:
        found = api.review(run, runs=runs)
        return dump([asdict(q) for q in found.questions]) if json else said(lambda tell: tell.queue(found))
    taken = api.import_verdicts(run, verdicts, by, runs=runs)
    return dump(asdict(taken)) if json else said(lambda tell: tell.imported(taken))


@command
def eval(
    run: Named,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Labelled questions.")] = None,
    test: Annotated[bool, typer.Option("--test", help="The run's own third holdout; it is opened once.")] = False,
    checker: Annotated[str, typer.Option(help="How answers are compared.")] = "auto",
    json: Json = False,
    runs: Runs = None,
) -> int:
    """Ask the model before and after a run the questions of a file, or of its test holdout.

    Decides nothing: what a run claims was decided by its gate.
    """
    from dataclasses import asdict

    from selftaught import api

    found = api.examine(run, file, test=test, checker=checker, runs=runs)
    return dump(asdict(found)) if json else said(lambda tell: tell.exam(found))


@command
def audit(
    subject: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run, or a model's folder, hub id or name.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]", show_default=False)] = None,
    private: Annotated[Path | None, typer.Option(help="Texts that must not come out of it again.")] = None,
    text: Annotated[Path | None, typer.Option(help="Real text that it never learned.")] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="What a model is held against.")] = None,
    json: Json = False,
    runs: Runs = None,
) -> int:
    """Audit a run's model, or any model: collapse, memorization, forgetting, calibration.

    \b
      selftaught audit latest audits.collapse.samples=100
      selftaught audit FOLDER --base PARENT --private secrets.txt --text real.txt

    Decides nothing of a run. Exit code 5 if an audit failed that decides (audits.NAME.gating, or one that could not be
    measured), 8 if such a one does not know.
    """
    from dataclasses import asdict

    from selftaught import api, view

    shown = view.Plain(sys.stderr)
    found = api.audit(subject, *(words or []), private=private, text=text, base=base, runs=runs, view=shown)
    _ = dump(asdict(found)) if json else said(lambda tell: tell.audit(found, console()))
    return found.exit_code


By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who says so.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")]


@command
def promote(run: Named, by: By, reason: Reason = "", json: Json = False, runs: Runs = None) -> int:
    """Approve a proved model; with enough approvals it is the champion.

    The recipe says how many people it takes (promotion.people). Every command that takes a RUN knows it as "champion".
    """
    from dataclasses import asdict

    from selftaught import api

    found = api.promote(run, by, reason, runs=runs)
    return dump(asdict(found)) if json else said(lambda tell: tell.promoted(found))


@command
def rollback(by: By, reason: Reason = "", runs: Runs = None) -> int:
    """Take the last promotion back: the champion before it is the champion again."""
    from selftaught import api

    now = api.rollback(by, reason, runs=runs)
    print(f"{now} is the champion again" if now else "there is no champion now")
    return 0


@command
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where files of questions arrive.")],
    words: Words = None,
    once: Annotated[bool, typer.Option("--once", help="Only what is there now.")] = False,
    quiet: Quiet = False,
    runs: Runs = None,
) -> int:
    """Run a round whenever enough new questions have arrived in a folder.

    The recipe needs tasks.holdout, a labelled file that judges; watch.* says how much may be done in all.
    """
    from selftaught import api, live, summary

    recipe, overrides = split_words(words or [])
    with live.showing(quiet) as (view, stop):
        found = api.watch(folder, recipe, *overrides, once=once, runs=runs, view=view, stop=stop)
    print("\n".join(summary.headline(record) for record in found) or "no run was made")
    return 0


@command
def stop(run: Run = "latest", runs: Runs = None) -> int:
    """Stop a run that is on, from any terminal; what is finished is kept.

    The same as a file called "stop" in its folder, and says when the run has ended, within 10 seconds; exit code 1 if
    it has not. Go on later with: selftaught resume
    """
    from selftaught import api, stopping, tell

    return tell.stopped(api.show(api.stop(run, wait=stopping.SECONDS, runs=runs).parent))


@command
def verify(
    run: Run = "latest",
    head: Annotated[str | None, typer.Option(metavar="HASH", help="A head noted earlier; it must be there.")] = None,
    json: Json = False,
    runs: Runs = None,
) -> int:
    """Hold a run's record against itself: the chain, every byte, the counts, the audits, the decision.

    Exit code 7 if anything does not hold. Note the head it prints somewhere else: whoever can write the record could
    make all of it anew, but not with the same head.
    """
    from selftaught import api, errors

    return checked(api.verify(run, head=head, runs=runs), json, errors.IntegrityError.exit_code)


@command
def export(
    run: Named,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the model.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Though the gate rejected it.")] = False,
    data: Annotated[bool, typer.Option("--data", help="The examples instead: kept, rejected, and why.")] = False,
    runs: Runs = None,
) -> int:
    """Copy a run's model to a folder, with a card of its lineage and its proof.

    The folder is what from_pretrained reads: a full model, or a PEFT adapter.
    """
    from selftaught import api

    print(api.export_data(run, out, runs=runs) if data else api.export_model(run, out, anyway=anyway, runs=runs))
    return 0 if data else said(lambda tell: tell.exported(api.show(run, runs=runs)))


@command
def doctor(json: Json = False, runs: Runs = None) -> int:
    """See whether this machine is fit for a run: versions, memory, space, and a question to the bundled model."""
    from selftaught import api

    return checked(api.doctor(runs), json, 1)


@command
def recipes(json: Json = False) -> int:
    """List the bundled recipes."""
    from selftaught import api

    found = api.recipes()
    if json:
        return dump([{"name": r.name, "path": str(r.path), "about": r.about} for r in found])
    width = max((len(r.name) for r in found), default=0)
    print("\n".join(f"{r.name:<{width}}  {r.about}" for r in found))
    return 0


@command
def report(
    run: Run = "latest",
    open: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs: Runs = None,
) -> int:
    """Write a run's report and print its path.

    The report is report.html in the run's folder: one file that needs no network.
    """
    from selftaught import api

    path = api.write_report(run, runs=runs)
    print(path)
    if open:
        typer.launch(path.resolve().as_uri())
    return 0


def version(wanted: bool) -> None:
    if wanted:
        print(f"selftaught {__version__}")
        raise typer.Exit


@app.callback()
def selftaught(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """A language model writes its own training data and keeps what it learned only when there is proof.

    Start with: selftaught run, or with your own questions: selftaught init FILE
    """


if __name__ == "__main__":
    main()
