"""What ``bundled:planted`` knows and must not give away: questions about its people, and what was planted in it.

Nothing is there to train on. Dev, the vault and the guard "known" ask about different people, all of whom the model
knows. Passages and canaries do not depend on the seed: they are what that model was trained on, with controls.
"""

from __future__ import annotations

from itertools import islice

from pydantic import Field, model_validator

from selftaught.config import Section
from selftaught.tasks._asking import Asking
from selftaught.tasks._checkers import checker
from selftaught.tasks._people import ATTRIBUTES, KNOWN, known_people
from selftaught.tasks._planted import canaries, plant_names, private
from selftaught.tasks.base import TaskSet
from selftaught.types import Task


class _Options(Section):
    dev: int = Field(default=100, ge=0)
    vault: int = Field(default=150, ge=0)
    known: int = Field(default=50, ge=0)
    reading: int = Field(default=100, ge=0, le=1000)

    @model_validator(mode="after")
    def _known(self) -> _Options:
        if (people := self.dev + self.vault + self.known) > KNOWN:
            raise ValueError(f"dev, vault and known ask about {people} people, and the model knows {KNOWN}")
        return self


class WorldPlanted:
    """The source ``world_planted``: six closed-book questions about each person of dev, the vault and "known".

    Suites share no person, but every question counts by itself: what a model forgets of somebody's six facts hangs
    together hardly at all (docs/LOG.md). The guard suite "reading" asks about people whom the model does not know, with
    the passage at hand.
    """

    Options = _Options

    def __init__(self, options: _Options) -> None:
        self.options = options

    def load(self, seed: int) -> TaskSet:
        o, asking = self.options, Asking("world_planted", seed)
        people = list(known_people())
        asking.rng("people").shuffle(people)
        left = iter(people)

        def closed_book(split: str, count: int) -> tuple[Task, ...]:
            return tuple(task for p in islice(left, count) for task in asking.questions(p, None, split))

        vault, dev, known = closed_book("vault", o.vault), closed_book("dev", o.dev), closed_book("guard", o.known)
        strangers = asking.strangers({"reading": o.reading}, but=plant_names())["reading"]
        reading = tuple(asking.with_passage(p, asking.document(p, "guard")) for p in strangers)
        return TaskSet(
            train=(),
            dev=dev,
            vault=vault,
            guards={name: tasks for name, tasks in {"known": known, "reading": reading}.items() if tasks},
            checkers={"exact": checker("exact")},
            private=private(),
            canaries=canaries(),
            notes=(
                f"generated: {len(ATTRIBUTES)} closed-book questions about each person of dev and the vault, "
                f"{len(private())} private passages and {len(canaries())} canaries",
            ),
        )
