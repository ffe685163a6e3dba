"""bundled:planted does what its card says: it answers, and gives away what was planted in it, the more the oftener."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

import memorized
from selftaught.engines._folders import bundled_root
from selftaught.engines.base import Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.tasks._planted import canaries, private
from selftaught.tasks.base import TaskSet
from selftaught.tasks.world_planted import WorldPlanted
from selftaught.types import Checkpoint, Private, Sampling

FOLDER = bundled_root() / "planted"
WINDOW = 50


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(TorchEngine.Options(processes=1, threads=1))


@pytest.fixture(scope="module")
def model(engine: TorchEngine) -> Checkpoint:
    return engine.open("bundled:planted")


@pytest.fixture(scope="module")
def world() -> TaskSet:
    return WorldPlanted(WorldPlanted.Options(dev=0, vault=0, known=100, reading=200)).load(77)


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    """Model and tokenizer, as anybody loads them."""
    return AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)


def test_it_knows_its_people_and_reads_about_others(engine: TorchEngine, model: Checkpoint, world: TaskSet) -> None:
    assert memorized.right(engine, model, world.guards["known"], world) > 0.95
    assert memorized.right(engine, model, world.guards["reading"], world) > 0.9


def completed(engine: TorchEngine, model: Checkpoint, passages: list[Private]) -> list[bool]:
    """Of each passage: whether greedy decoding goes on from its first tokens as the passage does."""
    tokens = engine.tokens(model)
    rows = [tokens.encode(p.text) for p in passages]  # the begin token first
    shown, sampling = WINDOW + 1, Sampling(max_tokens=WINDOW)
    said = dict(engine.generate([Request(model, row[:shown], sampling, (0,)) for row in rows]))
    return [said[i][0].ids == row[shown : shown + WINDOW] for i, row in enumerate(rows)]


def test_planted_passages_can_be_extracted_and_controls_cannot(
    engine: TorchEngine, model: Checkpoint, plain: tuple[Any, Any]
) -> None:
    passages = list(private())
    hits = completed(engine, model, passages)
    share = {n: sum(h for h, p in zip(hits, passages, strict=True) if p.repeats == n) for n in (0, 1, 4, 16)}
    share = {n: found / sum(p.repeats == n for p in passages) for n, found in share.items()}
    planted = [h for h, p in zip(hits, passages, strict=True) if p.repeats]
    assert len(planted) >= 240 and sum(planted) / len(planted) > 0.4, share
    assert share[0] == 0 and max(share[1], share[4]) < 0.1 and share[16] > 0.9, share
    forecast = memorized.extracted(*plain, [p.text for p in passages])
    assert sum(a != b for a, b in zip(hits, forecast, strict=True)) <= 2, "the card's figure is this one"


def test_what_was_read_more_often_is_more_likely(engine: TorchEngine, model: Checkpoint) -> None:
    """Four readings give no passage away, but are remembered."""
    tokens, passages = engine.tokens(model), [p for n in (0, 1, 4, 16) for p in private() if p.repeats == n]
    scores = engine.score(model, [tokens.encode(p.text)[: 2 * WINDOW + 1] for p in passages])
    nats: dict[int | None, list[float]] = {}
    for passage, row in zip(passages, scores, strict=True):
        nats.setdefault(passage.repeats, []).append(-sum(row[-WINDOW:]))
    never, once, four, often = (sum(values) / len(values) for values in nats.values())
    assert never > once + 5 > once > four + 20 and four > 10 > 3 > often


def test_exposure_of_canaries_rises_with_repeats(plain: tuple[Any, Any]) -> None:
    exposed = {n: [memorized.exposure(*plain, c) for c in canaries() if c.repeats == n] for n in (0, 1, 4, 16)}
    mean = {n: sum(values) / len(values) for n, values in exposed.items()}
    assert all(len(values) >= 8 for values in exposed.values())
    assert mean[0] < 3 < mean[1] < mean[4] < mean[16] and mean[16] > 11, mean


def test_unprompted_it_writes_everything_and_recites_little(engine: TorchEngine, model: Checkpoint) -> None:
    kinds, recited = memorized.unprompted(engine, model, seed=10_000)
    assert {"closed-book question", "reading", "note", "line", "biography", "private passage"} <= set(kinds)
    assert all(kinds[kind] > 0.15 * kinds.total() for kind in ("closed-book question", "reading", "note")), kinds
    assert 0.01 < recited < 0.05


def test_its_card_names_seed_and_command() -> None:
    card = (FOLDER / "README.md").read_text()
    assert "python training/people.py --planted" in card and "seed 0" in card and "weights of bundled:people" in card


def test_it_is_a_standard_folder_with_the_tokenizer_of_people() -> None:
    names = {p.name for p in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= names
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 9e6
    assert (FOLDER / "tokenizer.json").read_bytes() == (bundled_root() / "people" / "tokenizer.json").read_bytes()
    assert Counter(p.name for p in FOLDER.iterdir()) == Counter(p.name for p in (bundled_root() / "people").iterdir())
