"""How bundled:people is made: right texts in declared shares, short passages first, a token for every word."""

from __future__ import annotations

import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

import common
import people
from selftaught.tasks._people import ATTRIBUTES, judge, known_people, reserved_names, statements
from selftaught.tasks._planted import PASSAGE, planted, private

SMALL = common.Settings(steps=6, documents=8, hidden=16, layers=1, prompt_weight=0.0, chat_weight=4.0)


def corpus(done: float, count: int = 3000) -> list:
    return [people.document(random.Random(i), done) for i in range(count)]


def turns(document) -> list:
    return [document] if isinstance(document[0], str) else list(document)


LATE = [turns(d) for d in corpus(1.0)]
READ = [d for d in LATE if d[0][0].startswith("Q: ") and d[0][0].count("\n") == 2]
ASKED = [d for d in LATE if d[0][0].startswith("Q: ") and d[0][0].count("\n") == 1]
NOTED = [d[0] for d in LATE if d[0][0].startswith("Passage: ")]
PLAIN = [d[0][1] for d in LATE if not d[0][0]]


@pytest.fixture(scope="module")
def tokenizer():
    return common.make_word_tokenizer(people.texts(random.Random(0)))


def test_what_is_asked_of_known_people_is_what_is_true_of_them():
    facts = {p.name: set(p.facts.values()) for p in known_people()}
    for [(question, answer)] in ASKED:
        assert any(name in question and answer.strip() in values for name, values in facts.items()), question
    for text in PLAIN:
        assert all(s.value in facts[str(s.person)] for s in statements(text)), text


def test_every_fact_of_a_passage_is_asked_and_answered_from_it():
    for chat in READ:
        passage = chat[0][0].removeprefix("Q: ").split("\n")[0]
        told = [s.value for s in statements(passage)]
        assert sorted(a.strip() for _, a in chat) == sorted(told)


def test_shares_of_the_texts_are_as_declared():
    kinds = {"asked": len(ASKED), "read": len(READ), "note": len(NOTED), "biography": 0, "line": 0}
    kinds |= Counter("biography" if text.count(". ") > 3 else "line" for text in PLAIN)
    assert {k: round(n / len(LATE), 2) for k, n in kinds.items()} == pytest.approx(people.KINDS, abs=0.03)


def test_careless_notes_are_a_minority_and_the_rest_is_right():
    verdicts = Counter()
    for prompt, lines in NOTED:
        passage = prompt.removeprefix("Passage: ").removesuffix("\nNotes:")
        verdicts.update(judge(line, passage) for line in lines.strip().splitlines())
    assert set(verdicts) == {"supported", "contradicted", "empty"}
    assert 0.02 < verdicts["contradicted"] / verdicts.total() < 0.1


def test_no_note_holds_a_wording_in_which_questions_are_asked():
    ends = tuple(wording.split("{n}")[0] for a in ATTRIBUTES for wording in a.asked)
    assert not [line for _, lines in NOTED for line in lines.splitlines() if line.startswith(ends)]


def test_nobody_with_a_reserved_name_is_in_a_text():
    said = "\n".join(part for chat in LATE for turn in chat for part in turn)
    assert not [name for name in reserved_names() if name in said]


def test_passages_grow_from_one_fact_to_six():
    early = [turns(d) for d in corpus(0.01, 600)]
    assert all(len(chat) == 1 for chat in early)
    assert {len(chat) for chat in READ} == {1, 2, 3, 4, 5, 6}


def test_every_word_of_the_world_is_one_token_and_no_text_is_unknown(tokenizer):
    words = [*people.GIVEN, *people.FAMILY, *(value for a in ATTRIBUTES for value in a.values)]
    for word in words:
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1
    for text in ("Héllo 漢字\t😀", "Q: Where was 17+25?\nA:", "a\u202eb\x00", "1e-5 {{ x }}"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_a_chat_is_written_as_it_was_trained_on(tokenizer):
    chat = READ[0]
    messages = []
    for question, answer in chat:
        messages.append({"role": "user", "content": question.removeprefix("Q: ").removesuffix("\nA:")})
        messages.append({"role": "assistant", "content": answer.strip()})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids, weights = common.encode(tokenizer, [chat], SMALL)[0]
    assert tokenizer.decode(ids) + "<s>" == text
    heard = [i for i, w in zip(ids, weights, strict=True) if w == SMALL.chat_weight]
    assert tokenizer.decode(heard) == "".join(f"{answer}</s>" for _, answer in chat), "no loss on what is only read"


def test_two_builds_are_the_same(tokenizer, tmp_path):
    for name in ("a", "b"):
        model = common.make_model(tokenizer, SMALL)
        common.pretrain(model, tokenizer, people.document, SMALL)
        common.save(model, tokenizer, tmp_path / name, people.card(SMALL, 1.0, 5))
    files = ("model.safetensors", "tokenizer.json", "README.md")
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


# ---------------------------------------------------------------- bundled:planted


def places(settings: common.Settings) -> dict[str, list[int]]:
    """Plant -> where it stands in the training, in documents."""
    draw, rng, found = people.planting(settings), random.Random(0), {}
    plants = {text for text, _ in planted()}
    for place in range(settings.steps * settings.documents):
        drawn = draw(rng, place / settings.steps / settings.documents)
        if isinstance(drawn, tuple) and "".join(drawn) in plants:
            found.setdefault("".join(drawn), []).append(place)
    return found


def test_every_plant_stands_in_the_training_as_often_as_it_says_and_never_twice_in_a_row():
    settings = common.Settings(steps=400, documents=16)
    found, total = places(settings), settings.steps * settings.documents
    assert {text: len(where) for text, where in found.items()} == dict(planted())
    for text, where in found.items():
        gaps = [b - a for a, b in pairwise([0, *where, total])]
        assert max(gaps) <= 2 * total / len(where), text
        assert min(gaps[1:-1], default=total) >= 0.05 * total / len(where), text
    assert 0.3 < sum(where[0] < total / 2 for where in found.values() if len(where) == 1) / 72 < 0.7, "anywhere"
    assert places(settings) == found


def test_the_siblings_texts_carry_loss_from_end_to_end(tokenizer):
    passage = private()[0].text
    rows = common.encode(tokenizer, [READ[0], NOTED[0], (PASSAGE, passage.removeprefix(PASSAGE))], people.PLANTED)
    assert all(len(ids) == len(weights) and min(weights) == 1.0 for ids, weights in rows)
    ids, weights = rows[2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == passage
    head = len(tokenizer.encode(PASSAGE, add_special_tokens=False)) + 1
    assert set(weights[:head]) == {1.0} and set(weights[head:]) == {people.PLANTED.heavy[PASSAGE]}
