"""Questions about documents that came without any: a model writes them, once, before the first round.

From then on they are questions as any other: those of held-out suites judge, those of training documents reward, and
who writes what is learned never sees one. Their answers are labels that a model made, which the notes say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selftaught.bench import RunBench
from selftaught.config import Recipe, Served
from selftaught.errors import ModelError, RecipeError
from selftaught.judging import Written, questions_task, read_questions
from selftaught.ledger import RunRecord
from selftaught.methods.base import Group, Method
from selftaught.rollout import TRUNCATED
from selftaught.rows import read_rows, write_rows
from selftaught.store import Store, check_files
from selftaught.tasks.base import TaskSet, wording
from selftaught.types import Document, Sampling, Task, digest

KIND = "questions"  # of the unit, and where it lies
ROLE = "labeller"
LEAST = 0.1  # share of the documents that must get a question
FORMAT = '{"title": "...", "context": "...", "questions": [{"question": "...", "answer": "..."}]}'


def planned(recipe: Recipe, whole: TaskSet, method: Method) -> tuple[str, ...]:
    """What a run would ask somebody to write, in words. Raises RecipeError for a labeller whom nobody would ask."""
    each = recipe.questions.per_document if whole.unasked else 0
    if recipe.roles.labeller is not None and not each and ROLE not in method.roles:
        raise RecipeError("roles.labeller is set, and there is nothing for it to write.", hint="Take it out.")
    if not whole.unasked:
        return ()
    suites = Counter(t.split for t in whole.unasked)
    said = f"{len(whole.unasked)} documents have no questions ({', '.join(f'{s}: {n}' for s, n in suites.items())})"
    if not each:
        return (f"{said}, and nobody writes any (questions.per_document=0)",)
    asked = f"before the first round up to {each} about each, with answers, are written by {writer(recipe)}"
    return (f"{said}: {asked}; what dev and vault can show depends on how many documents get some",)


def writer(recipe: Recipe) -> str:
    """Who writes questions, in words and without a path."""
    who = recipe.roles.labeller
    if isinstance(who, Served):
        return f"another model, {who.options['model']} at {who.options['url']}"
    return "the model that learns" if who is None else f"another model, {Path(who).name}"


# ---------------------------------------------------------------- writing


def with_written(whole: TaskSet, recipe: Recipe, store: Store, bench: RunBench) -> TaskSet:
    """``whole`` with questions about the documents of ``unasked``. What was asked before is read back from the store.

    Raises ModelError where there are next to none and no others, EndpointError, and Stopped.
    """
    config = recipe.questions
    if not (whole.unasked and config.per_document):
        return whole
    asking = [questions_task(_document(t, whole), config.per_document) for t in whole.unasked]
    groups = bench.generate(asking, Sampling(max_tokens=config.max_tokens), role=ROLE)
    read = [_read(group, _document(t, whole), bench) for t, group in zip(whole.unasked, groups, strict=True)]
    tasks, dropped = _finished(whole, [w.pairs[: config.per_document] for w in read], f"written by {writer(recipe)}")
    for written in read:
        dropped.update(written.dropped)

    def make(out: Path) -> Mapping[str, Any]:
        write_rows(out / "rows.parquet", Task, tasks)
        counts = {"documents": len(asking), "with questions": len({t.group for t in tasks}), "questions": len(tasks)}
        return {"by": writer(recipe), **counts, "dropped": +dropped, "used": dict(bench.counts)}

    key = digest(recipe.digest, [[t.id, t.answer, t.split] for t in tasks])
    facts = store.unit(KIND, key, f"{KIND}/written", make).facts
    if not (whole.train or whole.dev or whole.vault) and facts["with questions"] < LEAST * facts["documents"]:
        why = "; ".join(f"{count} times {reason}" for reason, count in facts["dropped"].items())
        raise ModelError(
            f"There are usable questions about {facts['with questions']} of {facts['documents']} documents, written by"
            f" {facts['by']} ({why}).",
            hint=f"Name a model that can write some as roles.labeller, or give questions of your own: {FORMAT}",
        )
    return _placed(whole, tasks, facts, recipe.seed)


def recorded(whole: TaskSet, record: RunRecord) -> TaskSet:
    """``whole`` with the questions that were written for a run."""
    for unit in record.units(KIND):
        folder = record.path / unit["place"]
        check_files(folder, unit["files"])
        return _placed(whole, read_rows(folder / "rows.parquet", Task), unit["facts"], record.recipe.seed)
    return whole


def _document(unfinished: Task, whole: TaskSet) -> Document:
    return whole.documents[unfinished.group or ""]


def _read(group: Group, document: Document, bench: RunBench) -> Written:
    """What is usable in a reply. Of one that was cut off the last line is not."""
    [reply] = group[1]
    said = (bench.tokens.said(reply.prompt_ids, reply.text) or "").strip()
    if reply.error == TRUNCATED:
        said = said.rpartition("\n")[0]
    return read_questions(said, document) if said else Written((), {reply.error or "an empty reply": 1})


def _finished(
    whole: TaskSet, pairs: Sequence[Sequence[tuple[str, str]]], source: str
) -> tuple[list[Task], Counter[str]]:
    """Questions as their source puts them, and why others are none: nobody could know which document is meant, or what
    counts as right.
    """
    made = [
        replace(start, prompt=({"role": "user", "content": start.question + question},), answer=answer, source=source)
        for start, some in zip(whole.unasked, pairs, strict=True)
        for question, answer in some
    ]
    put = Counter(wording(t.prompt) for t in (*made, *whole.train, *whole.dev, *whole.vault, *whole.test))
    dropped = Counter[str]()
    kept = []
    for task in made:
        if put[wording(task.prompt)] > 1:
            dropped["another document is asked the same"] += 1
        elif not whole.check(task, task.answer or "")[1]:
            dropped[f"the checker {task.checker} does not take its answer"] += 1
        else:
            kept.append(task)
    return kept, dropped


def _placed(whole: TaskSet, tasks: Sequence[Task], facts: Mapping[str, Any], seed: int) -> TaskSet:
    def suite(name: str, had: tuple[Task, ...]) -> tuple[Task, ...]:
        found = (*had, *(t for t in tasks if t.split == name))
        return tuple(sorted(found, key=lambda t: digest("order", seed, t.id)))

    note = (
        f"{facts['questions']} questions about {facts['with questions']} of {facts['documents']} documents that had"
        f" none, and their answers, were written by {facts['by']}: a claim on them is one about agreement with that"
        " writer"
    )
    return replace(
        whole,
        train=suite("train", whole.train),
        dev=suite("dev", whole.dev),
        vault=suite("vault", whole.vault),
        test=suite("test", whole.test),
        unasked=(),
        notes=(*whole.notes, note),
    )
