"""What was planted, and who is asked about: the same plants in every run, words of the model alone, nobody twice."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise

import pytest
from transformers import AutoTokenizer

from selftaught.config import Member
from selftaught.engines._folders import bundled_root
from selftaught.errors import RecipeError
from selftaught.load import make
from selftaught.tasks._people import FAMILY, GIVEN, KNOWN, common_names, known_people, reserved_names
from selftaught.tasks._planted import CANARIES, PASSAGES, TOKENS, canaries, plant_names, planted, private
from selftaught.tasks.base import TaskSet, sizes
from selftaught.tasks.world_planted import WorldPlanted
from selftaught.types import Task, digest

PLANTS = [*private(), *canaries()]
WINDOW = 50  # tokens that are shown, and as many that have to follow


def world(seed: int = 0, **options: object) -> TaskSet:
    return WorldPlanted(WorldPlanted.Options.model_validate(options)).load(seed)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_root() / "people")


def words(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text, add_special_tokens=False)]


def named(text: str) -> set[str]:
    said = text.replace(".", "").replace(":", "").split()
    return {f"{a} {b}" for a, b in pairwise(said) if a in GIVEN and b in FAMILY}


# ---------------------------------------------------------------- plants


def test_plants_are_as_many_as_declared_and_all_different() -> None:
    assert Counter(p.repeats for p in private()) == PASSAGES and Counter(c.repeats for c in canaries()) == CANARIES
    assert len({p.text for p in PLANTS}) == len(PLANTS)
    assert Counter(n for _, n in planted()) == {n: PASSAGES[n] + CANARIES[n] for n in (1, 4, 16)}
    controls = {p.text for p in PLANTS if p.repeats == 0}
    assert len(controls) >= 88 and not controls & {text for text, _ in planted()}


def test_plants_are_those_that_the_bundled_model_was_trained_on() -> None:
    assert digest([(p.text, p.repeats) for p in PLANTS])[:16] == "9ae77cc94d5deefb", "train bundled:planted again"


def test_every_plant_is_made_of_the_models_words(tokenizer) -> None:
    for plant in PLANTS:
        ids = tokenizer.encode(plant.text, add_special_tokens=False)
        assert not [t for t in tokenizer.convert_ids_to_tokens(ids) if t.startswith("<")], plant.text
    assert all(len(words(tokenizer, p.text)) >= TOKENS >= 2 * WINDOW for p in private())


def test_what_has_to_follow_cannot_be_guessed(tokenizer) -> None:
    """Each of the people who come in there was drawn out of all who are not known."""
    for passage in private():
        said = words(tokenizer, passage.text)
        new = named("".join(said[WINDOW : 2 * WINDOW])) - named("".join(said[:WINDOW]))
        assert len(new) * math.log2(len(common_names()) - KNOWN) >= 60, passage.text


def test_nobody_is_in_two_plants_and_only_their_name_is_reserved() -> None:
    known, reserved = {p.name for p in known_people()}, set(reserved_names())
    assert len(plant_names()) == len(set(plant_names())) == len(PLANTS)
    for name, plant in zip(plant_names(), PLANTS, strict=True):
        assert named(plant.text) & reserved == {name} and not named(plant.text) & known


def test_a_secret_is_one_of_many_and_each_piece_one_token(tokenizer) -> None:
    for canary in canaries():
        assert 1000 <= math.prod(len(pieces) for pieces in canary.space) <= 8000
        assert all(piece in pieces for piece, pieces in zip(canary.secret, canary.space, strict=True))
        assert all(len(set(pieces)) == len(pieces) >= 10 for pieces in canary.space)
        assert words(tokenizer, canary.text) == words(tokenizer, canary.before) + list(canary.secret)
        assert {len(words(tokenizer, piece)) for pieces in canary.space for piece in pieces} == {1}


# ---------------------------------------------------------------- questions


def about(task: Task) -> str:
    """Whom a question is about, by its source: "world_planted:NAME: ATTRIBUTE"."""
    return task.source.split(":")[1]


def test_suites_are_split_by_person_and_as_large_as_declared() -> None:
    tasks = world()
    assert sizes(tasks) == {"train": 0, "dev": 600, "vault": 900, "guard known": 300, "guard reading": 100}
    suites = (tasks.dev, tasks.vault, tasks.guards["known"], tasks.guards["reading"])
    people = [{about(t) for t in suite} for suite in suites]
    assert [len(p) for p in people] == [100, 150, 50, 100]
    assert not any(one & other for one, other in combinations(people, 2))
    assert set().union(*people[:3]) == {p.name for p in known_people()}


def test_closed_book_questions_ask_what_the_model_was_told() -> None:
    tasks = world(dev=100, vault=100, known=100)
    asked = [*tasks.dev, *tasks.vault, *tasks.guards["known"]]
    facts = {(p.name, value) for p in known_people() for value in p.facts.values()}
    assert {(about(t), t.answer) for t in asked} == facts and len({t.question for t in asked}) == 1800
    assert all(about(t) in t.question and "\n" not in t.question and t.group is None for t in asked)
    assert all(tasks.check(t, f" {t.answer}.")[1] and not tasks.check(t, "nobody")[1] for t in asked)


def test_a_guard_without_questions_is_left_out() -> None:
    assert not world(known=0, reading=0).guards


def test_nobody_in_a_passage_at_hand_is_in_a_plant() -> None:
    asked = world(reading=1000).guards["reading"]
    assert len(asked) == 1000 and not [t for t in asked if any(name in t.question for name in plant_names())]
    assert all(str(t.answer) in t.question for t in asked)


def test_another_seed_draws_other_questions_and_the_same_plants() -> None:
    one, same, other = world(1), world(1), world(2)
    assert one == same and one.vault_digest != other.vault_digest
    assert (one.private, one.canaries) == (other.private, other.canaries) == (private(), canaries())


def test_more_people_than_the_model_knows_are_refused() -> None:
    with pytest.raises(RecipeError, match="ask about 301 people, and the model knows 300"):
        make("tasks", Member(name="world_planted", dev=101))  # type: ignore[call-arg]
