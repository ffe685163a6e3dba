"""Scoring: what a text's figures depend on, against a plain loop of one text at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from selftaught.engines import _score
from selftaught.engines._memory import Room
from selftaught.engines.base import unheard

GENERATOR = random.Random(5)
TEXTS = [tuple(GENERATOR.randrange(3, 250) for _ in range(GENERATOR.randrange(1, 90))) for _ in range(64)]


def score(model: Any, texts: list[tuple[int, ...]]) -> list[list[float]]:
    return _score.score(model, texts, Room("scores", "", unheard))


def loaded(folder: Path, architecture: str, dtype: torch.dtype, attention: str, context: int = 128) -> Any:
    from transformers import AutoModelForCausalLM

    made = tiny.checkpoint(folder / architecture, architecture, context=context)
    return AutoModelForCausalLM.from_pretrained(made, dtype=dtype, attn_implementation=attention).eval()


@torch.inference_mode()
def one_by_one(model: Any, texts: list[tuple[int, ...]]) -> list[list[float]]:
    found = []
    for text in texts:
        ids = torch.tensor([text])
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        found.append([float(row[i]) for row, i in zip(logprobs, text[1:], strict=True)])
    return found


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_it_is_what_a_plain_loop_finds(tmp_path: Path, architecture: str) -> None:
    model = loaded(tmp_path, architecture, torch.float32, "eager")
    found, plain = score(model, TEXTS), one_by_one(model, TEXTS)
    assert [len(row) for row in found] == [len(text) - 1 for text in TEXTS]
    for mine, its in zip(found, plain, strict=True):
        assert mine == pytest.approx(its, abs=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_text_has_the_same_bits_in_any_company(
    tmp_path: Path, architecture: str, dtype: torch.dtype, attention: str
) -> None:
    model = loaded(tmp_path, architecture, dtype, attention)
    among_63 = score(model, TEXTS)
    for i in (0, 11, 40):
        assert score(model, [TEXTS[i]]) == [among_63[i]], "alone"
        assert score(model, [*TEXTS[20:27], TEXTS[i]])[-1] == among_63[i], "among seven others"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_text_may_fill_a_context_of_any_length(tmp_path: Path, architecture: str) -> None:
    """Padding then goes beyond the last position, of which GPT-2 has an embedding."""
    model = loaded(tmp_path, architecture, torch.float32, "eager", context=50)
    texts = [tuple(range(5, 55)), tuple(range(60, 80))]
    found = score(model, texts)
    assert found[0] == pytest.approx(one_by_one(model, texts)[0], abs=1e-4)
    assert found[1] == score(model, texts[1:])[0]


def test_batches_hold_every_text_once_and_no_more_tokens_than_asked_for() -> None:
    lengths = [GENERATOR.randrange(1, 900) for _ in range(300)]
    for tokens in (10, 2048, 1 << 20):
        cut = list(_score.batches(lengths, tokens))
        assert sorted(i for batch in cut for i in batch) == list(range(300))
        sizes = [len(batch) * _score.padded(max(lengths[i] for i in batch)) for batch in cut]
        assert all(size <= tokens or len(batch) == 1 for size, batch in zip(sizes, cut, strict=True))
    assert list(_score.batches([], 2048)) == []


def test_fewer_are_read_at_once_where_the_vocabulary_is_large(tmp_path: Path) -> None:
    model, seen = loaded(tmp_path, "llama", torch.float32, "eager"), list[int]()
    model.register_forward_hook(lambda _, args, out: seen.append(out.logits.shape[:2].numel()))
    score(model, TEXTS)
    assert len(seen) > 1 and max(seen) <= _score.TOKENS
    seen.clear()
    model.config.vocab_size = _score.LOGIT_BYTES // (4 * 256)  # as if it had so many
    score(model, TEXTS)
    assert max(seen) <= 256
