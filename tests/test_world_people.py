"""Invented people: wordings that do not meet, people who do not either, and a grammar that reads what it writes."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from selftaught.config import Member
from selftaught.errors import DataError, RecipeError
from selftaught.load import make
from selftaught.tasks._people import (
    ATTRIBUTES,
    EMPTY,
    FAMILY,
    GIVEN,
    Person,
    Statement,
    Unreadable,
    ask,
    common_names,
    fresh,
    judge,
    known_people,
    note,
    oracle,
    reserved_names,
    state,
    statements,
    summarise,
    tell,
)
from selftaught.tasks.base import sizes
from selftaught.tasks.world_people import WorldPeople
from selftaught.types import Task

NAMES = [a.name for a in ATTRIBUTES]
ADA = Person("Ada Lunmark", {"birthplace": "Karsford", "year": "1923", "school": "Branholm", "field": "logic",
                             "employer": "Zentrix", "hobby": "chess"})  # fmt: skip
PASSAGE = "Ada Lunmark was born in Karsford. Her life began in 1923. At Branholm she was a student. Zentrix hired her."


def world(**options: object) -> WorldPeople:
    return WorldPeople(WorldPeople.Options.model_validate(options))


def asked_wordings() -> set[str]:
    return {wording for a in ATTRIBUTES for wording in a.asked}


# ---------------------------------------------------------------- words


def test_no_wording_serves_two_uses() -> None:
    uses = {use: [w for a in ATTRIBUTES for w in getattr(a, use)] for use in ("told", "stated", "short", "edit")}
    uses |= {"asked": sorted(asked_wordings()), "empty": list(EMPTY)}
    for (one, some), (other, more) in combinations(uses.items(), 2):
        assert not set(some) & set(more), f"{one} and {other} share a wording"
    assert all(len(set(wordings)) == len(wordings) for wordings in uses.values())
    assert all(len(a.asked) >= 3 and len(a.edit) >= 3 and len(a.stated) >= 5 for a in ATTRIBUTES)


def test_no_asked_wording_stands_in_a_passage_a_note_or_an_oracle() -> None:
    rng = random.Random(0)
    for _ in range(200):
        person = fresh(rng)
        passage = tell(person, NAMES, rng)
        lines = [passage, *oracle(person)]
        for style in ("facts", "questions", "summary", "copy", "vague"):
            lines += note(person, style, NAMES, rng, passage)
        asked = {wording.format(n=person.name) for wording in asked_wordings()}
        assert not [(q, line) for line in lines for q in asked if q.casefold() in line.casefold()]


def test_a_word_means_one_thing() -> None:
    words = [*GIVEN, *FAMILY, *(value for a in ATTRIBUTES for value in a.values)]
    assert len(words) == len(set(words)), "a town is no employer, a name is no town"


# ---------------------------------------------------------------- people


def test_people_of_pretraining_and_of_documents_share_no_name() -> None:
    assert not set(common_names()) & set(reserved_names())
    assert len(set(common_names())) == len(common_names()) == 18_000 and len(set(reserved_names())) == 6_000
    assert {p.name for p in known_people()} == set(common_names()[:300])
    rng = random.Random(0)
    assert {fresh(rng).name for _ in range(2000)} <= set(common_names()[300:])


def test_every_word_of_a_reserved_name_is_in_common_ones() -> None:
    known = {word for name in common_names() for word in name.split()}
    assert {word for name in reserved_names() for word in name.split()} <= known


def test_suites_are_split_by_person_and_as_large_as_declared() -> None:
    tasks = world(train=20, dev=10, vault=30, test=5, known=50, reading=15).load(0)
    assert sizes(tasks) == {"train": 120, "dev": 60, "vault": 180, "test": 30, "guard known": 50, "guard reading": 15}
    suites = (tasks.train, tasks.dev, tasks.vault, tasks.test, tasks.guards["reading"])
    people = [{t.group for t in suite} for suite in suites]
    assert [len(p) for p in people] == [20, 10, 30, 5, 15]
    assert not any(one & other for one, other in combinations(people, 2))
    assert set(tasks.documents) == set().union(*people[:4]), "a passage that is at hand is nothing to learn"
    names = {d.title for d in tasks.documents.values()}
    assert len(names) == 65 and names <= set(reserved_names())


def test_a_document_answers_its_questions_and_its_oracle_states_nothing_else() -> None:
    tasks = world(train=30, dev=0, vault=0, known=0, reading=0).load(1)
    assert not tasks.guards
    for document in tasks.documents.values():
        told = {s.attribute: s.value for s in statements(document.text)}
        about = [t for t in tasks.train if t.group == document.id]
        assert [t.answer for t in about] == [told[a] for a in NAMES] and sorted(told) == sorted(NAMES)
        assert all(document.title in t.question for t in about)
        assert {judge(line, document.text) for line in document.oracle} == {"supported"}
        assert {s.attribute for line in document.oracle for s in statements(line)} == set(NAMES)


def test_answers_are_checked_exactly() -> None:
    tasks = world(train=5, dev=0, vault=0, known=40, reading=5).load(2)

    def right(task: Task, text: str) -> bool:
        return tasks.check(task, text)[1]

    everything = [*tasks.train, *tasks.guards["known"], *tasks.guards["reading"]]
    assert all(right(t, str(t.answer)) and right(t, f" {t.answer}.") for t in everything)
    assert not any(right(t, f"not {t.answer}") or right(t, "") for t in everything)


def test_the_known_guard_asks_what_pretraining_told() -> None:
    facts = {(p.name, value) for p in known_people() for value in p.facts.values()}
    tasks = world(train=1, dev=0, vault=0, known=1800, reading=0).load(3).guards["known"]
    assert len({t.question for t in tasks}) == 1800
    assert {(t.group, t.answer) for t in tasks} == facts


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others() -> None:
    small = {"train": 5, "dev": 5, "vault": 5, "known": 10, "reading": 5}
    assert world(**small).load(3) == world(**small).load(3)
    assert world(**small).load(3).vault_digest != world(**small).load(4).vault_digest
    less = world(**small | {"train": 2}).load(3)
    whole = world(**small).load(3)
    assert less.train == whole.train[:12] and (less.dev, less.vault, less.guards) == (
        whole.dev,
        whole.vault,
        whole.guards,
    )


def test_more_people_than_there_are_names_is_refused() -> None:
    with pytest.raises(DataError, match="6501 people are asked for, and there are names for 6000") as error:
        world(train=6000, dev=0, vault=501, reading=0).load(0)
    assert "Lower tasks.train" in error.value.hint
    with pytest.raises(RecipeError, match="known: Input should be less than or equal to 1800"):
        make("tasks", Member(name="world_people", known=1801))  # type: ignore[call-arg]


# ---------------------------------------------------------------- the grammar reads what it writes


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=NAMES)
def test_every_wording_of_every_value_is_read_back(attribute) -> None:
    for person in (ADA, Person("Tevulf Wexquist", {})):
        for value in attribute.values:
            holder = Person(person.name, {attribute.name: value})
            fact = [Statement(person.name, attribute.name, value)]
            lines = [w.format(n=person.name, v=value) for w in attribute.stated]
            lines += [f"{person.name}: {w.format(v=value)}." for w in attribute.short]
            lines += [ask(holder, attribute.name, w) for w in (*attribute.edit, *attribute.asked)]
            lines += [_told(holder, attribute.name, w) for w in attribute.told]
            assert [(line, statements(line)) for line in lines] == [(line, fact) for line in lines]


def _told(person: Person, attribute: str, wording: str) -> str:
    name = person.name
    return wording.format(S=name, s=name, P=f"{name}'s", p=f"{name}'s", o=name, v=person.facts[attribute])


def test_pronouns_are_read_as_whoever_was_named_last() -> None:
    rng = random.Random(0)
    for _ in range(300):
        person, order = fresh(rng), rng.sample(NAMES, len(NAMES))
        read = statements(tell(person, order, rng, named=0.0))
        assert read == [Statement(person.name, a, person.facts[a]) for a in order]
    assert statements("She worked for Zentrix.") == [Statement(None, "employer", "Zentrix")]


def test_notes_of_every_style_are_read_back() -> None:
    rng = random.Random(0)
    for _ in range(100):
        person, some = fresh(rng), rng.sample(NAMES, 3)
        for style in ("facts", "questions", "summary"):
            read = [s for line in note(person, style, some, rng) for s in statements(line)]
            assert read == [Statement(person.name, a, person.facts[a]) for a in some]
        assert all(statements(line) == [] for line in note(person, "vague", some, rng))


@pytest.mark.parametrize("text", [
    "Ada Lunmark was born in Zentrix.",
    "Ada Lunmark was born in Karsford",
    "Ada Lunmark was born in Karsfordx.",
    "Ada was born in Karsford.",
    "Where was Ada Lunmark born?",
    "Ada Lunmark: from Karsford, rich.",
    "Ada Lunmark was born in Karsford. And so on.",
    "the cat sat on the mat",
])  # fmt: skip
def test_what_the_grammar_does_not_have_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        statements(text)
    assert judge(text, PASSAGE) == "unreadable"


@pytest.mark.parametrize(("line", "verdict"), [
    ("Ada Lunmark hails from Karsford.", "supported"),
    ("What is Ada Lunmark's home town? Karsford.", "supported"),
    ("She studied at Branholm.", "supported"),
    ("Ada Lunmark: born 1923, employed by Zentrix.", "supported"),
    (PASSAGE, "supported"),
    ("Ada Lunmark hails from Tolbury.", "contradicted"),
    ("Ada Lunmark: born 1923, employed by Omnrix.", "contradicted"),
    ("Ada Lunmark: born 1924, fond of chess.", "contradicted"),
    ("Ada Lunmark is fond of chess.", "unsupported"),
    ("Ada Lunmark: born 1923, fond of chess.", "unsupported"),
    ("Eva Lunmark hails from Karsford.", "unsupported"),
    ("Ada Lunmark was a person of note.", "empty"),
    ("", "empty"),
])  # fmt: skip
def test_a_line_is_judged_by_its_passage(line: str, verdict: str) -> None:
    assert judge(line, PASSAGE) == verdict


def test_a_wrong_value_is_always_found() -> None:
    rng = random.Random(0)
    for _ in range(200):
        person = fresh(rng)
        passage = tell(person, NAMES, rng)
        attribute = rng.choice(ATTRIBUTES)
        value = rng.choice([v for v in attribute.values if v != person.facts[attribute.name]])
        wrong = Person(person.name, {**person.facts, attribute.name: value})
        line = rng.choice((state(wrong, attribute.name, rng), summarise(wrong, [attribute.name], rng)))
        assert judge(line, passage) == "contradicted"
