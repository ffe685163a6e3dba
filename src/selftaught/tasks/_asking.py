"""Tasks about invented people: who is drawn, the passage about somebody, and the questions that are asked."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from selftaught.tasks._people import ATTRIBUTES, Person, invent, oracle, reserved_names, tell
from selftaught.types import Document, Task, content_id, seed_for


@dataclass(frozen=True)
class Asking:
    """What one source draws in one run: everything depends on its name, the run's seed and the unit alone."""

    source: str
    seed: int

    def rng(self, *unit: str) -> random.Random:
        return random.Random(seed_for(self.seed, self.source, *unit))

    def strangers(self, sizes: Mapping[str, int], but: Collection[str] = ()) -> dict[str, list[Person]]:
        """So many people with reserved names for each split, in this order; what is true of one depends on the name."""
        names = [name for name in reserved_names() if name not in but]
        self.rng("names").shuffle(names)
        left = iter(names)
        return {
            split: [invent(name, self.rng("facts", name)) for name in islice(left, n)] for split, n in sizes.items()
        }

    def document(self, person: Person, split: str) -> Document:
        rng = self.rng("passage", person.name)
        text = tell(person, rng.sample([a.name for a in ATTRIBUTES], len(ATTRIBUTES)), rng)
        return Document(content_id("document", text), text, person.name, split, oracle(person))

    def questions(self, person: Person, group: str | None, split: str) -> Iterator[Task]:
        """One question per attribute, in a wording drawn for this person."""
        rng = self.rng("questions", person.name)
        for a in ATTRIBUTES:
            question = rng.choice(a.asked).format(n=person.name)
            yield self.task(question, person.facts[a.name], split, group, f"{person.name}: {a.name}")

    def with_passage(self, person: Person, document: Document) -> Task:
        """One question of the guard "reading": the passage stands above it."""
        asked = self.rng("reading", person.name).choice(list(self.questions(person, document.id, "guard")))
        assert asked.answer is not None
        question = f"{document.text}\n{asked.question}"
        return self.task(question, asked.answer, "guard", document.id, f"{person.name}: reading")

    def task(self, question: str, answer: str, split: str, group: str | None, source: str) -> Task:
        prompt = ({"role": "user", "content": question},)
        return Task(prompt, answer, "exact", split, group=group, source=f"{self.source}:{source}")
