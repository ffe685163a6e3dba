"""Generated documents of the bundled model's world: short biographies of invented people, and questions about them.

Nobody in a document is in anything that the bundled model was trained on. Questions stand in wordings that no note and
no passage uses. Holdouts are drawn before train: a smaller train set leaves them, and its own first documents, alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from pydantic import Field, model_validator

from selftaught.config import Section
from selftaught.errors import DataError
from selftaught.tasks._asking import Asking
from selftaught.tasks._checkers import checker
from selftaught.tasks._people import ATTRIBUTES, KNOWN, judge, known_people, reserved_names
from selftaught.tasks.base import Support, TaskSet
from selftaught.types import Document, Task

VERDICTS: dict[str, Support | None] = {
    "supported": "supported",
    "unsupported": "unsupported",
    "contradicted": "contradicted",
    "unreadable": "unsupported",
    "empty": None,
}
KNOWN_QUESTIONS = KNOWN * len(ATTRIBUTES)


class _Options(Section):
    hold: Literal["documents", "questions"] = "documents"  # what is held out; questions: every document is learned
    train: int = Field(default=200, ge=0)
    dev: int = Field(default=100, ge=0)
    vault: int = Field(default=400, ge=0)
    test: int = Field(default=0, ge=0)  # opened once: selftaught eval RUN --test
    known: int = Field(default=300, ge=0, le=KNOWN_QUESTIONS)
    reading: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _something(self) -> _Options:
        if not self.train and self.hold == "documents":
            raise ValueError("train=0 leaves nothing to learn from unless hold=questions")
        return self


class WorldPeople:
    """The source ``world_people``: a person, a document and six questions each in train, dev, vault and test.

    With ``hold: questions`` documents of every suite are learned, and nothing is asked about those of train.
    The guard suite "known" asks about people whom the bundled model knows; "reading" asks with the passage at hand.
    """

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        """Raises DataError where more people are asked for than there are names."""
        o, asking = self.options, Asking("world_people", seed)
        sizes = {"vault": o.vault, "dev": o.dev, "reading": o.reading, "test": o.test, "train": o.train}
        _check_names(sum(sizes.values()))
        people = asking.strangers(sizes)
        learned = o.hold == "questions"
        documents = {
            split: [asking.document(p, "train" if learned else split) for p in some] for split, some in people.items()
        }
        asked = {
            split: tuple(
                task
                for person, document in zip(people[split], documents[split], strict=True)
                for task in asking.questions(person, document.id, split)
            )
            for split in ("vault", "dev", "test", "train")
        }
        reading = zip(people["reading"], documents["reading"], strict=True)
        guards = {
            "known": tuple(islice(_known(asking), o.known)),
            "reading": tuple(asking.with_passage(person, document) for person, document in reading),
        }
        return TaskSet(
            train=() if learned else asked["train"],
            dev=asked["dev"],
            vault=asked["vault"],
            guards={name: tasks for name, tasks in guards.items() if tasks},
            checkers={"exact": checker("exact")},
            test=asked["test"],
            documents={d.id: d for split in asked for d in documents[split]},
            supports=_supports,
            notes=(f"generated: biographies of invented people, {len(ATTRIBUTES)} questions about each",),
        )


def _supports(line: str, document: Document) -> Support | None:
    """What the grammar cannot read is not supported; a line that says nothing is nothing to be supported."""
    return VERDICTS[judge(line, document.text)]


def _known(asking: Asking) -> Iterator[Task]:
    """Questions about the people that the bundled model knows, each fact once, in random order."""
    rng = asking.rng("known")
    facts = [(person, a) for person in known_people() for a in ATTRIBUTES]
    rng.shuffle(facts)
    for person, a in facts:
        question = rng.choice(a.asked).format(n=person.name)
        yield asking.task(question, person.facts[a.name], "guard", person.name, f"{person.name}: {a.name}")


def _check_names(people: int) -> None:
    if people > (names := len(reserved_names())):
        raise DataError(
            f"world_people: {people} people are asked for, and there are names for {names}.",
            hint=f"Lower tasks.train or tasks.vault: together all suites may have {names} people.",
        )
