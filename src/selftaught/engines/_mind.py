"""What a scripted model has in its head: a skill, and statements that it was taught.

A statement is "The K of N is V."; "What is the K of N?" asks for V. A text that states one teaches it with chance 1/2,
each of several for itself; of two values the one that was stated more often is learnt.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selftaught.types import Checkpoint, digest, seed_for

FILE = "scripted.json"
STATED = re.compile(r"\b[Tt]he ([^.?\n]+?) of ([^.?\n]+?) is ([^.?\n]+)\.")
ASKED = re.compile(r"\b[Ww]hat is the ([^.?\n]+?) of ([^.?\n]+?)\?")
NOTES = re.compile(r"Passage: (.*?)\nNotes:", re.DOTALL)  # asks for notes on the passage
QUESTIONS = re.compile(r"Write (\d+) different questions about a passage.*<<<\n(.*?)\n>>>", re.DOTALL)
IDLE = ("note", "interest", "renown")

Facts = Mapping[tuple[str, str], str]  # (K, N) -> V


@dataclass(frozen=True)
class Mind:
    skill: float
    facts: Facts = field(default_factory=dict)

    def said(self) -> dict[str, object]:
        """As JSON; without statements it is the skill alone."""
        facts = [[*key, value] for key, value in sorted(self.facts.items())]
        return {"skill": self.skill} | ({"facts": facts} if facts else {})

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self.said()))


def mind_in(folder: Path) -> Mind:
    said = json.loads((folder / FILE).read_text())
    return Mind(float(said["skill"]), {(k, n): v for k, n, v in said.get("facts", ())})


def mind_of(checkpoint: Checkpoint) -> Mind:
    folder = Path(checkpoint.adapter or checkpoint.model)
    return mind_in(folder) if (folder / FILE).is_file() else Mind(float(checkpoint.model.partition(":")[2]))


def taught(texts: Sequence[str], seed: int) -> Facts:
    """What is learnt of these texts. Whether it is depends on the statement, the texts and the seed."""
    counts = Counter(statement for text in texts for statement in set(STATED.findall(text)))
    unit = digest(*texts)
    learnt = {}
    for (key, name, value), count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        if random.Random(seed_for(seed, "taught", key, name, value, unit)).random() < 1 - 0.5**count:
            learnt[key, name] = value
    return learnt


def answer(prompt: str, mind: Mind, luck: float) -> str | None:
    """To the last "What is the K of N?": what was taught, or what the prompt states and skill reads; None: no such."""
    asked = ASKED.findall(prompt)
    if not asked:
        return None
    read = dict(_pairs(STATED.findall(prompt))) if luck < mind.skill else {}
    return " " + (mind.facts.get(asked[-1]) or read.get(asked[-1], "unknown"))


def notes(prompt: str, mind: Mind, luck: float, rng: random.Random) -> str | None:
    """On the last "Passage: ...", when "Notes:" asks for them: with skill all its statements, else idle words."""
    passages, after = NOTES.findall(prompt), prompt.rpartition("\nNotes:")[2]
    if not passages or ASKED.search(after):
        return None
    stated = STATED.findall(passages[-1])
    rng.shuffle(stated)
    if luck < mind.skill and stated:
        return " " + "\n".join(f"The {k} of {n} is {v}." for k, n, v in stated)
    return f" {stated[0][1] if stated else 'This'} is of {rng.choice(IDLE)}."


def questions(prompt: str, mind: Mind) -> str | None:
    """On a passage, as many as are asked for, with answers; without any skill none. None where nobody asks for any."""
    asked = QUESTIONS.search(prompt)
    if not asked:
        return None
    stated = STATED.findall(asked[2])[: int(asked[1])] if mind.skill else []
    return " " + "\n".join(f"Question: What is the {k} of {n}?\nAnswer: {v}" for k, n, v in stated)


def useful(text: str) -> bool | None:
    """Whether the notes on a passage state something that it states; None where the text is no such notes."""
    passages = NOTES.findall(text)
    said = STATED.findall(text.rpartition("\nNotes:")[2])
    return not set(said).isdisjoint(STATED.findall(passages[-1])) if passages else None


def knows(text: str, mind: Mind) -> bool | None:
    """Whether the answer at the end of a text is the one that would be given; None where nothing is asked there."""
    asked = list(ASKED.finditer(text))
    if not asked:
        return None
    before, after = text[: asked[-1].end()], text[asked[-1].end() :]
    said = answer(before, mind, luck=0.5)  # reads what the passage says from a skill of a half on
    return said != " unknown" and after.endswith(str(said))


def _pairs(stated: Iterable[tuple[str, str, str]]) -> Iterable[tuple[tuple[str, str], str]]:
    return (((key, name), value) for key, name, value in stated)
