from __future__ import annotations

import math
from pathlib import Path

import pytest

from selftaught.config import Member
from selftaught.load import make
from selftaught.retrieval import Retriever, words
from selftaught.types import Document


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{n}", text) for n, text in enumerate(texts)]


def test_scores_are_those_of_the_formula() -> None:
    found = Retriever(documents("tea tea leaf", "tea river", "river north sea alps mouth delta delta"))
    # N = 3, lengths 3, 2, 7, average 4; "tea" stands in 2 documents, "leaf" in 1
    tea, leaf = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    first = tea * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 4)) + leaf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 4))
    second = tea * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 4))
    scores = found.scores("Tea leaf?")
    assert scores == {"d0": pytest.approx(first), "d1": pytest.approx(second)}
    assert scores["d0"] == pytest.approx(0.6951 + 1.0926, abs=2e-4), "worked out by hand"


def test_a_word_that_is_asked_twice_counts_twice() -> None:
    found = Retriever(documents("tea leaf", "river"))
    assert found.scores("leaf leaf")["d0"] == pytest.approx(2 * found.scores("leaf")["d0"])


def test_a_word_that_every_document_has_still_counts_for_them() -> None:
    assert Retriever(documents("tea a", "tea b")).scores("tea")["d1"] > 0


def test_the_best_is_found_by_text_and_by_title() -> None:
    some = [Document("a", "It flows north.", "Rhine"), Document("b", "It is drunk hot.", "Tea")]
    found = Retriever(some)
    assert found.best("Topic: Tea\nHow?").id == "b" and found.best("Where does it flow, north or south?").id == "a"


def test_of_equals_the_smallest_id_wins_whatever_the_order() -> None:
    same = [Document(name, "tea leaf") for name in ("c", "a", "b")]
    for question in ("tea", "nothing of this", ""):
        assert Retriever(same).best(question).id == Retriever(same[::-1]).best(question).id == "a", question


def test_no_document_is_an_error_and_an_empty_one_is_not() -> None:
    with pytest.raises(ValueError, match="no document"):
        Retriever(())
    assert Retriever(documents("", "")).best("tea").id == "d0"


def test_words_are_read_in_any_script_and_case() -> None:
    assert words("Straße, ＴＥＡ: x-ray 3.5") == ["strasse", "tea", "x", "ray", "3", "5"]


def test_squads_questions_find_their_passages(shared_data: Path) -> None:
    path = shared_data / "squad" / "squad_val.json"
    if not path.is_file():
        pytest.skip(f"no SQuAD in {path.parent}")
    tasks = make("tasks", Member(name="passages", path=str(path), limit=1)).load(0)
    found = Retriever(tasks.documents.values())
    asked = tasks.dev[:300]
    right = sum(found.best(t.question).id == t.group for t in asked)
    assert right / len(asked) > 0.6, "far above one of some 1,200"
