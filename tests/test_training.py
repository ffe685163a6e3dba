"""How the bundled models are made: right texts, a tokenizer that knows every byte, a folder any loader reads."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

import common
import sums

SMALL = common.Settings(steps=17, documents=8, hidden=16, layers=1)
CORPUS = [sums.document(random.Random(i), done=i / 199) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return common.make_tokenizer((q + a for q, a in CORPUS), vocabulary=300)


def test_every_step_of_every_solution_is_right():
    for seed in range(300):
        question = "+".join(str(random.Random(seed).randint(1, 99)) for _ in range(seed % 5 + 2))
        *steps, final = sums.solve(question, random.Random(seed)).splitlines()
        assert final == f"#### {eval(question)}"
        assert len(steps) == question.count("+") and all(eval(s.replace("=", "==")) for s in steps)


def test_solutions_take_many_orders():
    orders = {sums.solve("12+34+56+78", random.Random(seed)) for seed in range(200)}
    assert len(orders) > 15, "of 18 ways to combine four numbers two at a time"


@pytest.mark.parametrize("text", ["Héllo 漢字\t😀", "Q: 17+25\nA: ", "a\u202eb\x00", "1e-5 {{ x }}"])
def test_no_text_is_unknown(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_digits_stand_alone(tokenizer):
    assert all(len(re.findall(r"\d", t)) <= 1 for t in tokenizer.get_vocab() if not t.startswith("<0x"))


def test_a_prompt_is_a_prefix_of_its_document(tokenizer):
    for question, answer in CORPUS:
        asked = tokenizer.encode(question, add_special_tokens=False)
        assert tokenizer.encode(question + answer, add_special_tokens=False)[: len(asked)] == asked


def additions(questions: list[str]) -> set[int]:
    return {q.count("+") for q in questions if "+" in q}


def test_sums_grow_up_and_only_the_longest_come_without_working():
    early = [sums.document(random.Random(i), done=0.01) for i in range(100)]
    late = [sums.document(random.Random(i), done=1.0) for i in range(4000)]
    assert additions([q for q, _ in early]) == {1} and additions([q for q, _ in late]) == {1, 2, 3, 4, 5}
    bare = [q for q, a in late if a.startswith("####")]
    assert additions(bare) == {5}
    assert 0.35 < len(bare) / sum(q.count("+") == 5 for q, _ in late) < 0.45
    assert all(a == f"#### {eval(q[3:].split()[0])}" for q, a in late if a.startswith("####")), "right, all the same"


def test_two_builds_are_the_same_and_anybody_can_load_them(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("a", "b"):
        model = common.make_model(tokenizer, SMALL)
        common.pretrain(model, tokenizer, sums.document, SMALL)
        common.save(model, tokenizer, tmp_path / name, sums.card(SMALL, 1.0, 5))
    files = ("model.safetensors", "tokenizer.json", "README.md")
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.max_position_embeddings == 1024
    asked = AutoTokenizer.from_pretrained(tmp_path / "a").apply_chat_template(
        [{"role": "user", "content": "17+25"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<s>Q: 17+25\nA: ", "as every document it was trained on begins"
