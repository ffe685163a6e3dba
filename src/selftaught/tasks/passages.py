"""Documents of one's own and questions about them: SQuAD in its formats, or a folder of texts. See _passages.py.

A question is asked without its document: that is what a model has to have learned. The split is by document, and a
document goes where one goes that holds it, stands in it, or is a part of the same text. With ``hold: questions`` every
document is learned, and what is split, by document, is the questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from selftaught.errors import DataError
from selftaught.tasks._checkers import checker
from selftaught.tasks._graders import accepting
from selftaught.tasks._passages import Asked, Passage, Reading, read_passages
from selftaught.tasks._rows import Question, Questions, to_tasks
from selftaught.tasks._split import Pool, Shares, assemble, by_hash, prompt_key, split
from selftaught.tasks.base import TaskSet
from selftaught.types import Document, Task, content_id, digest

OPENING = 8  # words by which a document is looked for in others


class _Options(Shares):
    path: str  # a file, or a folder of texts
    limit: int | None = Field(default=None, ge=1)  # at most so many documents are trained on
    questions_per_document: int | None = Field(default=None, ge=1)  # at most so many, by hash
    hold: Literal["documents", "questions"] = "documents"  # what is held out; questions: every document is learned
    together: Literal["document", "title"] = "document"  # title: documents of one title go to one side
    topic: bool = True  # "Topic: TITLE" stands before a question
    max_words: int = Field(default=400, ge=20)  # of a document without questions; a longer one is cut
    checker: str = "recall"
    pattern: str | None = None  # for the checker regex

    @model_validator(mode="after")
    def _judged(self) -> _Options:
        if self.hold == "questions" and self.train == 1:
            raise ValueError("hold=questions holds all questions out, and dev, vault and test get none of them")
        return self

    @property
    def parts(self) -> dict[str, float]:
        """Shares of the questions: none is trained on where they are held out."""
        return {name: s for name, s in self.shares.items() if name != "train" or self.hold == "documents"}


class Passages:
    """The source ``passages``."""

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError (file, entry, counts) and RecipeError (checker); see tasks/base.py.

        Without any question there are no tasks; ``documents`` has all that is held out or trained on, and ``unasked``
        says what questions about them would be for.
        """
        o = self.options
        read = read_passages(Path(o.path), o.max_words)
        documents = _documents(read)
        asked, notes = _asked(read, documents, o.topic)
        judge = checker(o.checker, o.pattern)
        tasks = to_tasks(_rows(read, asked), judge, labelled=True, option="tasks.checker")
        judge = accepting(judge, {a.question.source: a.others for a in asked if a.others})
        kin, going = _kin(read, documents, o)
        counted = (
            f"{read.path.name}: {len(documents)} documents, {len(asked)} questions ({read.format})",
            *read.notes,
            *notes,
            *going,
            f"checker: {judge.name}",
        )
        about = {t.group for t in tasks}
        open_ = [_unfinished(d, judge.name, o.topic) for d in documents.values() if d.id not in about]
        counted = (*counted, *_counted({"documents without questions": len(open_)}))
        if tasks:
            pool = Pool(_first(tasks, o.questions_per_document, seed), None, (), {judge.name: judge}, counted, kin)
            found = assemble(pool, o.parts, seed)
            open_ = open_ if o.hold == "documents" else []  # what people wrote judges, and nothing else beside it
        else:
            parts = split(open_, o.parts, seed, kin)
            open_ = [*parts.train, *parts.dev, *parts.vault, *parts.test]
            found = TaskSet((), (), (), {}, {judge.name: judge}, (*counted, *parts.notes))
        found = replace(found, unasked=tuple(open_))
        if o.hold == "questions":
            return _all_learned(found, documents, o.limit, seed)
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


def _kin(read: Reading, documents: Mapping[str, Document], options: _Options) -> tuple[dict[str, str], list[str]]:
    """Document -> one name for all that go to one side, and notes on why they do.

    Parts of one text go together where documents are held out: where all are learned, no part can tell of another.
    """
    texts = {d.id: d.text for d in documents.values()}
    holding = families(texts)
    cut = _by(lambda p: p.whole, read.items)
    titled = _by(lambda p: p.title.casefold(), read.items) if options.together == "title" else []
    parts = len({name for some in cut for name in some})
    notes = _counted({
        "documents go where another goes that holds them, or that they hold": len(texts) - len(set(holding.values())),
        f"documents are parts of {len(cut)} long texts; each counts as a document": parts,
        "documents go where another goes that has their title": sum(len(set(some)) - 1 for some in titled),
    })  # fmt: skip
    return families(texts, [*(cut if options.hold == "documents" else []), *titled]), notes


def _by(name: Callable[[Passage], str], passages: Iterable[Passage]) -> list[list[str]]:
    """Documents in the groups that ``name`` makes of their passages, but for those that it leaves without a name."""
    found: dict[str, list[str]] = defaultdict(list)
    for passage in passages:
        if name(passage):
            found[name(passage)].append(document_id(passage.text))
    return list(found.values())


def families(texts: Mapping[str, str], together: Iterable[Sequence[str]] = ()) -> dict[str, str]:
    """Name -> one name for all texts that hold one another, up to case and white space, directly or by others.

    Those that stand in one group of ``together`` are of a family too.
    """
    said = {name: text.casefold().split() for name, text in texts.items()}
    openings: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, words in said.items():
        openings[tuple(words[:OPENING])].append(name)
    head = {name: name for name in texts}

    def first(name: str) -> str:
        while head[name] != name:
            name = head[name]
        return name

    def join(one: str, other: str) -> None:
        low, high = sorted((first(one), first(other)))
        head[high] = low

    for some in together:
        for name in some:
            join(some[0], name)
    for name, words in said.items():
        whole = f" {' '.join(words)} "
        runs = {tuple(words[i : i + n]) for n in {len(o) for o in openings} for i in range(len(words) - n + 1)}
        for other in (o for run in runs & openings.keys() for o in openings[run]):
            if f" {' '.join(said[other])} " in whole:
                join(name, other)
    return {name: first(name) for name in texts}


def _limited(
    found: TaskSet, documents: Mapping[str, Document], kin: Mapping[str, str], limit: int | None, seed: int
) -> TaskSet:
    """``found`` with its documents: those held out, and of the others the first ``limit`` in hash order.

    A document without questions that has a held-out one in its family is neither.
    """
    asked = (*found.dev, *found.vault, *found.test, *found.unasked)
    held = {t.group or "": t.split for t in asked if t.split != "train"}
    shut = {kin[name] for name in held}
    others = [name for name in documents if name not in held]
    free = _in_order((n for n in others if kin[n] not in shut), seed)
    chosen = set(free[:limit])
    if not chosen:
        raise DataError(
            f"None of {len(documents)} documents is left to learn from.",
            hint="Whole documents are shared out over train, dev and vault: give at least three (the same text counts"
            " once, parts of one text together), or raise tasks.train. Or learn all and hold only questions out"
            " (tasks.hold=questions, with method.name=continued_pretraining).",
        )
    notes = _counted({
        "documents dropped because one that goes with them is held out": len(others) - len(free),
        "documents left out, more than tasks.limit": len(free) - len(chosen),
    })  # fmt: skip
    return replace(
        found,
        train=tuple(t for t in found.train if t.group in chosen),
        documents={n: replace(d, split=held.get(n, "train")) for n, d in documents.items() if n in held or n in chosen},
        unasked=tuple(t for t in found.unasked if t.group in held or t.group in chosen),
        notes=(*found.notes, *notes),
    )


def _all_learned(found: TaskSet, documents: Mapping[str, Document], limit: int | None, seed: int) -> TaskSet:
    """``found`` with the first ``limit`` documents in hash order, and the questions about those."""
    chosen = set(_in_order(documents, seed)[:limit])

    def about(tasks: Sequence[Task]) -> tuple[Task, ...]:
        return tuple(t for t in tasks if t.group in chosen)

    return replace(
        found,
        dev=about(found.dev),
        vault=about(found.vault),
        test=about(found.test),
        unasked=about(found.unasked),
        documents={n: d for n, d in documents.items() if n in chosen},
        notes=(*found.notes, *_counted({"documents left out, more than tasks.limit": len(documents) - len(chosen)})),
    )


def _in_order(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda n: digest("order", seed, n))


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
            asked = replace(a, question=_lead(document, topic) + a.question)
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


def _lead(document: Document, topic: bool) -> str:
    return f"Topic: {document.title}\n" if topic and document.title else ""


def _unfinished(document: Document, checker: str, topic: bool) -> Task:
    """What stands before a question that somebody may yet write about a document."""
    return Task(({"role": "user", "content": _lead(document, topic)},), "", checker, group=document.id)


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
