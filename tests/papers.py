"""Documents that the scripted engine can learn from: "The K of N is V.", with a question for every statement."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from selftaught.tasks._checkers import checker
from selftaught.tasks.base import TaskSet
from selftaught.types import Document, Task

KEYS = ("colour", "weight", "origin", "price")
CHECKERS = {"exact": checker("exact")}


def document(number: int, split: str = "train", keys: Sequence[str] = KEYS) -> tuple[Document, tuple[Task, ...]]:
    """The thing ``number`` and a question about each of its ``keys``."""
    rng, name = random.Random(number), f"thing{number}"
    values = {key: f"{key[:2]}{rng.randint(0, 999)}" for key in keys}
    lines = tuple(f"The {key} of {name} is {value}." for key, value in values.items())
    text = "A thing. " + " ".join(lines)
    tasks = tuple(
        Task(({"role": "user", "content": f"What is the {key} of {name}?"},), value, "exact", split, name)
        for key, value in values.items()
    )
    return Document(name, text, name.capitalize(), split, lines), tasks


def world(train: int = 6, dev: int = 4, vault: int = 4) -> TaskSet:
    sizes = {"train": train, "dev": dev, "vault": vault}
    splits = [split for split, size in sizes.items() for _ in range(size)]
    made = [document(i, split) for i, split in enumerate(splits)]
    suites = {name: tuple(t for _, tasks in made for t in tasks if t.split == name) for name in sizes}
    documents = {d.id: d for d, _ in made}
    return TaskSet(suites["train"], suites["dev"], suites["vault"], {}, CHECKERS, documents=documents)


def write(path: Path, count: int) -> Path:
    """``count`` documents as SQuAD's passages grouped with their questions."""
    rows = [
        {
            "title": d.title,
            "context": d.text,
            "questions": [{"question": t.question, "answer": t.answer} for t in tasks],
        }
        for d, tasks in map(document, range(count))
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_texts(folder: Path, count: int) -> Path:
    """``count`` documents as a folder of texts, which have no questions."""
    folder.mkdir(parents=True, exist_ok=True)
    for d, _ in map(document, range(count)):
        (folder / f"{d.id}.txt").write_text(d.text, encoding="utf-8")
    return folder
