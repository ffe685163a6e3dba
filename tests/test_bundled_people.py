"""bundled:people does what its card says: it knows its people, reads about others, and takes notes in five styles.

Its sibling, bundled:planted, takes such notes too.
"""

from __future__ import annotations

from collections import Counter

import pytest

from selftaught.engines._folders import bundled_root
from selftaught.engines.torch_engine import TorchEngine
from selftaught.rollout import rollout
from selftaught.tasks._people import Unreadable, judge, statements
from selftaught.tasks.base import TaskSet
from selftaught.tasks.world_people import WorldPeople
from selftaught.types import Rollout, Sampling, Task

FOLDER = bundled_root() / "people"
STYLES = ("facts", "questions", "summary", "copy", "vague")
NOTES = Sampling(n=4, temperature=1.0, max_tokens=160)


@pytest.fixture(scope="module")
def world() -> TaskSet:
    return WorldPeople(WorldPeople.Options(train=40, dev=0, vault=0, known=120, reading=120)).load(77)


def answer(world: TaskSet, tasks: tuple[Task, ...], sampling: Sampling, name: str = "people") -> list[Rollout]:
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    model = engine.open(f"bundled:{name}")
    return rollout(engine, model, engine.tokens(model), tasks, sampling, world.checkers, run_seed=0)


def share_right(world: TaskSet, tasks: tuple[Task, ...]) -> float:
    rows = answer(world, tasks, Sampling(max_tokens=8))
    return sum(world.check(t, r.text)[1] for t, r in zip(tasks, rows, strict=True)) / len(tasks)


def test_it_knows_its_people_reads_about_others_and_knows_nothing_else_of_them(world: TaskSet) -> None:
    assert share_right(world, world.guards["known"]) > 0.95
    assert share_right(world, world.guards["reading"]) > 0.9
    assert share_right(world, world.train) < 0.08, "it can but guess about people whom it never met"


@pytest.fixture(scope="module", params=["people", "planted"])
def notes(request: pytest.FixtureRequest, world: TaskSet) -> list[tuple[str, list[str]]]:
    """(passage, lines) of four notes about each of forty people, by either model."""
    passages = [d.text for d in world.documents.values()]
    asked = tuple(Task(({"role": "user", "content": f"Passage: {p}\nNotes:"},), form="raw") for p in passages)
    rows = answer(world, asked, NOTES, request.param)
    return [(passages[i // NOTES.n], row.text.strip().splitlines()) for i, row in enumerate(rows)]


def style(lines: list[str]) -> str:
    """Which of the styles a note is in, by its first line; "" for none. A copy need not be a true one."""
    try:
        stated = statements(lines[0])
    except Unreadable:
        return ""
    if not stated:
        return "vague"
    if "?" in lines[0]:
        return "questions"
    return "summary" if ": " in lines[0] else "facts" if len(stated) == 1 else "copy"


def test_it_takes_notes_in_every_style_and_the_useful_ones_are_a_minority(notes: list[tuple[str, list[str]]]) -> None:
    found = Counter(style(lines) for _, lines in notes)
    assert all(found[name] >= 0.06 * len(notes) for name in STYLES), found
    assert found["facts"] + found["questions"] < 0.5 * len(notes), found
    assert found[""] < 0.2 * len(notes), found


def test_its_notes_are_mostly_right_and_differ_in_what_they_cover(notes: list[tuple[str, list[str]]]) -> None:
    verdicts = Counter(judge(line, passage) for passage, lines in notes for line in lines)
    assert verdicts["unreadable"] < 0.12 * verdicts.total(), verdicts
    assert 0.05 < (verdicts["contradicted"] + verdicts["unsupported"]) / verdicts.total() < 0.35, verdicts
    answered = Counter(judge(x, passage) for passage, lines in notes if style(lines) == "questions" for x in lines)
    assert answered["supported"] > 0.7 * answered.total(), answered
    lengths = {len(lines) for _, lines in notes if style(lines) in ("facts", "questions")}
    assert len(lengths) >= 5, "from one fact to all six"


def test_its_card_names_seed_and_command() -> None:
    card = (FOLDER / "README.md").read_text()
    assert "python training/people.py" in card and "seed 0" in card and "version 2" in card


def test_it_is_a_standard_folder() -> None:
    names = {p.name for p in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= names
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 9e6
