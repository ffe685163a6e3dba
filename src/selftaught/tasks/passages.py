"""Documents of one's own and questions about them: SQuAD in its formats, or a folder of texts. See _passages.py.

A question is asked without its document: that is what a model has to have learned. The split is by document, and a
document goes where one goes that holds it or stands in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from selftaught.tasks._checkers import checker
from selftaught.tasks._graders import accepting
from selftaught.tasks._passages import Asked, Reading, read_passages
from selftaught.tasks._rows import Question, Questions, to_tasks
from selftaught.tasks._split import Pool, Shares, assemble, by_hash, prompt_key
from selftaught.tasks.base import TaskSet
from selftaught.types import Document, Task, content_id, digest

OPENING = 8  # words by which a document is looked for in others
NO_QUESTIONS = "no document has questions: there is nothing to ask before somebody writes some"


class _Options(Shares):
    path: str  # a file, or a folder of texts
    limit: int | None = Field(default=None, ge=1)  # at most so many documents are trained on
    questions_per_document: int | None = Field(default=None, ge=1)  # at most so many, by hash
    topic: bool = True  # "Topic: TITLE" stands before a question
    max_words: int = Field(default=400, ge=20)  # of a document without questions; a longer one is cut
    checker: str = "recall"
    pattern: str | None = None  # for the checker regex


class Passages:
    """The source ``passages``."""

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError (file, entry, counts) and RecipeError (checker); see tasks/base.py.

        Without any question there are no tasks; ``documents`` has all that is held out or trained on.
        """
        o = self.options
        read = read_passages(Path(o.path), o.max_words)
        documents = _documents(read)
        asked, notes = _asked(read, documents, o.topic)
        judge = checker(o.checker, o.pattern)
        tasks = to_tasks(_rows(read, asked), judge, labelled=True, option="tasks.checker")
        judge = accepting(judge, {a.question.source: a.others for a in asked if a.others})
        kin = families({d.id: d.text for d in documents.values()})
        together = len(kin) - len(set(kin.values()))
        counted = (
            f"{read.path.name}: {len(documents)} documents, {len(asked)} questions ({read.format})",
            *read.notes,
            *notes,
            *_counted({"documents go where another goes that holds them, or that they hold": together}),
            f"checker: {judge.name}",
        )
        if tasks:
            pool = Pool(_first(tasks, o.questions_per_document, seed), None, (), {judge.name: judge}, counted, kin)
            found = assemble(pool, o.shares, seed)
        else:
            found = TaskSet((), (), (), {}, {judge.name: judge}, (*counted, NO_QUESTIONS))
        return _limited(found, documents, kin, o.limit, seed)


# ---------------------------------------------------------------- documents


def document_id(text: str) -> str:
    """The same for texts that differ in white space alone."""
    return content_id("document", " ".join(text.split()))


def _documents(read: Reading) -> dict[str, Document]:
    """By id, in order; of texts that are the same the first."""
    found: dict[str, Document] = {}
    for passage in read.items:
        name = document_id(passage.text)
        found.setdefault(name, Document(name, passage.text, passage.title))
    return found


def families(texts: Mapping[str, str]) -> dict[str, str]:
    """Name -> one name for all texts that hold one another, up to case and white space, directly or by others."""
    said = {name: text.casefold().split() for name, text in texts.items()}
    openings: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, words in said.items():
        openings[tuple(words[:OPENING])].append(name)
    head = {name: name for name in texts}

    def first(name: str) -> str:
        while head[name] != name:
            name = head[name]
        return name

    for name, words in said.items():
        whole = f" {' '.join(words)} "
        runs = {tuple(words[i : i + n]) for n in {len(o) for o in openings} for i in range(len(words) - n + 1)}
        for other in (o for run in runs & openings.keys() for o in openings[run]):
            if f" {' '.join(said[other])} " in whole:
                low, high = sorted((first(name), first(other)))
                head[high] = low
    return {name: first(name) for name in texts}


def _limited(
    found: TaskSet, documents: Mapping[str, Document], kin: Mapping[str, str], limit: int | None, seed: int
) -> TaskSet:
    """``found`` with its documents: those held out, and of the others the first ``limit`` in hash order.

    A document without questions that has a held-out one in its family is neither.
    """
    held = {t.group or "": t.split for t in (*found.dev, *found.vault, *found.test)}
    shut = {kin[name] for name in held}
    others = [name for name in documents if name not in held]
    free = sorted((n for n in others if kin[n] not in shut), key=lambda n: digest("order", seed, n))
    chosen = set(free[:limit])
    notes = _counted({
        "documents dropped because a held-out one holds them, or they hold one": len(others) - len(free),
        "documents left out, more than tasks.limit": len(free) - len(chosen),
    })  # fmt: skip
    return replace(
        found,
        train=tuple(t for t in found.train if t.group in chosen),
        documents={n: replace(d, split=held.get(n, "train")) for n, d in documents.items() if n in held or n in chosen},
        notes=(*found.notes, *notes),
    )


# ---------------------------------------------------------------- questions


@dataclass(frozen=True)
class _Labelled:
    """A question as it is put, and what is right besides its gold answer."""

    question: Question
    others: tuple[str, ...]


def _asked(read: Reading, documents: Mapping[str, Document], topic: bool) -> tuple[list[_Labelled], list[str]]:
    """Each question once, and notes. Put twice to one document, all its answers are right; to several, none is."""
    put: dict[str, list[tuple[Document, Asked]]] = defaultdict(list)
    for passage in read.items:
        document = documents[document_id(passage.text)]
        for a in passage.asked:
            lead = f"Topic: {document.title}\n" if topic and document.title else ""
            asked = replace(a, question=lead + a.question)
            put[prompt_key(Task(_prompt(asked)))].append((document, asked))
    found: list[_Labelled] = []
    counts: Counter[str] = Counter(
        {"questions dropped because they are said to have no answer": sum(p.impossible for p in read.items)}
    )
    for same in put.values():
        if len({document.id for document, _ in same}) > 1:
            counts["questions dropped because several documents are asked the same"] += len(same)
            continue
        document, asked = same[0]
        answers = tuple(dict.fromkeys(answer for _, a in same for answer in a.answers))
        found.append(_Labelled(Question(_prompt(asked), answers[0], document.id, "", asked.source), answers[1:]))
        counts["questions repeated; any answer that was given to them is right"] += len(same) - 1
        counts["questions with no answer that stands in the document"] += not _stands(answers, document)
    return found, _counted(counts)


def _prompt(asked: Asked) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": asked.question},)


def _stands(answers: Iterable[str], document: Document) -> bool:
    text = " ".join(document.text.casefold().split())
    return any(" ".join(a.casefold().split()) in text for a in answers)


def _rows(read: Reading, asked: Sequence[_Labelled]) -> Questions:
    return Questions(read.path, read.format, tuple(a.question for a in asked))


def _first(tasks: Sequence[Task], most: int | None, seed: int) -> Sequence[Task]:
    """At most ``most`` of each document, by hash."""
    seen: Counter[str | None] = Counter()
    kept = []
    for task in by_hash(tasks, seed):
        seen[task.group] += 1
        kept += [task] if most is None or seen[task.group] <= most else []
    return kept


def _counted(counts: Mapping[str, int]) -> list[str]:
    return [f"{count} {what}" for what, count in counts.items() if count]
