"""Any architecture with any kind of tokenizer, from the folder to an updated folder; and what text costs in tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import vocabularies
from selftaught.config import PromptConfig
from selftaught.engines._load import TextTokens
from selftaught.engines.base import Request, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError
from selftaught.rollout import rollout
from selftaught.tasks._checkers import checker
from selftaught.types import Example, Sampling, Task
from vocabularies import byte_level, sentencepiece

QUESTION = ({"role": "user", "content": "The name is 日本 😀?"},)
TASK = Task(QUESTION, checker="exact")
CHECKERS = {"exact": checker("exact")}


def with_template(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


def qwen() -> PreTrainedTokenizerFast:
    """No begin token; the turn's end, the document's end and the pad token are not the same."""
    added = ("<|im_start|>", "<think>", "</think>")
    made = byte_level(added=added, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return with_template(made, vocabularies.QWEN3)


MODELS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama": lambda: with_template(byte_level(bos_token="<s>", eos_token="</s>"), vocabularies.R1),  # no pad token
    "mistral": lambda: with_template(sentencepiece(bos_token="<s>", eos_token="</s>"), vocabularies.MISTRAL),
    "qwen2": qwen,
    "qwen3": qwen,
    "gemma": lambda: sentencepiece(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
    "gemma2": lambda: sentencepiece(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
    "gemma3_text": lambda: sentencepiece(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
    "gpt_neox": lambda: byte_level(bos_token="<|endoftext|>", eos_token="<|endoftext|>"),  # one for both, as GPT-2
    "gpt2": byte_level,  # no special token at all
}


def tokens(tokenizer: PreTrainedTokenizerFast, **prompt: Any) -> TextTokens:
    return TextTokens(tokenizer, 128, PromptConfig(**prompt), len(tokenizer))


def test_a_text_longer_than_the_context_is_no_news() -> None:
    """Private texts and documents are cut to windows; the tokenizer's warning would be about nothing."""
    tokenizer = byte_level(bos_token="<s>")
    tokenizer.model_max_length = 8
    assert len(tokens(tokenizer).encode_completion("a long text " * 9)) > 8
    assert not tokenizer.deprecation_warnings, "it notes there what it has warned of"


@pytest.mark.parametrize("architecture", MODELS)
def test_every_architecture_goes_from_a_folder_to_an_updated_folder(tmp_path: Path, architecture: str) -> None:
    tokenizer = MODELS[architecture]()
    vocabularies.checkpoint(tmp_path / "model", architecture, tokenizer, tokenizer.eos_token_id)
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, dtype="float32", autocast=False))
    parent = engine.open(str(tmp_path / "model"))
    some = engine.tokens(parent)
    facts = engine.describe(parent)
    assert (facts["begin_token"], facts["end_token"]) == (
        tokenizer.bos_token is not None,
        tokenizer.eos_token is not None,
    )

    rows = rollout(
        engine, parent, some, [TASK], Sampling(3, 1.0, max_tokens=12), {"exact": checker("exact")}, run_seed=1
    )
    prompt = some.encode(some.render(QUESTION, "plain"))
    assert [r.prompt_ids for r in rows] == [prompt] * 3 and len({r.completion_ids for r in rows}) == 3
    assert QUESTION[0]["content"] in some.decode(prompt), "no character of the question is lost on the way"
    for row in rows:
        scored = engine.score(parent, [row.prompt_ids + row.completion_ids])[0][len(prompt) - 1 :]
        assert scored == pytest.approx(row.logprobs, abs=1e-4)
        assert row.text == some.decode(row.completion_ids)

    learned = Example(prompt, some.encode_completion(some.lead("x") + "42 😀"), "42 😀")
    assert (learned.completion_ids[-1] == some.eos) == (some.eos is not None)
    (out := tmp_path / "out").mkdir()
    tuned = engine.tune(TuneJob(parent, [learned], [[0]] * 8, "full", 1e-2, 1, 0.1, 1.0, 0.0, 4, 8, seed=7), out)
    assert tuned.tokens == 8 * len(learned.completion_ids) and tuned.losses[-1] < tuned.losses[0]
    child = engine.open(str(out))
    assert child.digest != parent.digest and engine.tokens(child).digest == some.digest
    before, after = (
        sum(engine.score(c, [prompt + learned.completion_ids])[0][len(prompt) - 1 :]) for c in (parent, child)
    )
    assert after > before, "it learned, and was loaded again"


# ---------------------------------------------------------------- begin and end


def test_a_tokenizer_that_adds_its_begin_token_and_a_template_that_writes_it_make_one() -> None:
    made = with_template(sentencepiece(bos_token="<s>", eos_token="</s>"), vocabularies.MISTRAL)
    assert made.encode("x")[0] == made.bos_token_id, "this one adds it by itself"
    some = tokens(made)
    shown = some.render([*QUESTION, {"role": "assistant", "content": "4"}, *QUESTION], "plain")
    assert shown.startswith("<s>[INST]") and some.encode(shown).count(made.bos_token_id) == 1
    assert some.encode("no template")[:1] == (made.bos_token_id,) == some.encode("")


def test_without_a_begin_token_the_end_token_opens_unprompted_text_and_only_that() -> None:
    some = tokens(qwen())
    assert not some.has_bos and some.encode("") == (some.eos,)
    assert some.eos not in some.encode("The name")


def test_without_any_special_token_nothing_is_made_up() -> None:
    some = tokens(byte_level())
    assert (some.has_bos, some.eos) == (False, None)
    assert some.decode(some.encode_completion("The end")) == "The end" == some.decode(some.encode("The end"))
    with pytest.raises(ModelError, match=r"neither a begin nor an end token.*\n.*train\.replay=0"):
        some.encode("")


def test_every_end_that_a_model_was_configured_with_ends_a_sample(tmp_path: Path) -> None:
    """Chat models of Qwen and Llama name several ends in generation_config.json, the tokenizer only one of them."""
    made = qwen()
    many = [made.eos_token_id, made.pad_token_id]
    vocabularies.checkpoint(tmp_path / "model", "qwen2", made, many)
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, dtype="float32"))
    parent = engine.open(str(tmp_path / "model"))
    some, sampling = engine.tokens(parent), Sampling(400, 5.0, max_tokens=100)
    [(_, found)] = list(engine.generate([Request(parent, some.encode("The"), sampling, tuple(range(400)))]))
    assert {c.ids[-1] for c in found if c.finish == "stop"} == set(many)
    assert all(not set(many) & set(c.ids[:-1]) for c in found)
    texts = [some.decode(c.ids) for c in found if c.finish == "stop"]
    assert not [t for t in texts if "<|im_end|>" in t or "<|endoftext|>" in t]


# ---------------------------------------------------------------- text and ids


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_text_is_read_from_all_tokens_at_once(make: Callable[..., PreTrainedTokenizerFast]) -> None:
    """A token may hold a part of a character: the texts of single tokens do not add up to the text."""
    some = tokens(make(eos_token="</s>"))
    text = "The answer is 42. 😀 über 日本"
    ids = some.encode_completion(text)
    assert some.decode(ids) == text != "".join(some.decode([i]) for i in ids)


def test_a_given_answer_costs_one_space_and_not_two() -> None:
    """Sentencepiece puts a space before any text; ours before an answer would be the second."""
    some = tokens(sentencepiece(bos_token="<s>", eos_token="</s>"))
    prompt = some.render(QUESTION, "plain")
    both = some.encode(prompt) + some.encode_completion(some.lead(prompt) + "The answer is 4.")
    assert some.decode(both) == f"{prompt} The answer is 4."
    assert both[:-1] == some.encode(f"{prompt} The answer is 4."), "the very tokens of the text in one piece"


def test_a_token_without_an_embedding_is_named_when_it_is_used() -> None:
    made = byte_level(added=("<image>",), eos_token="</s>")
    some = TextTokens(made, 128, PromptConfig(), len(made) - 1)
    assert some.encode("The text model of a family may lack the tokens for images")
    for use in (some.encode, some.encode_completion):
        with pytest.raises(ModelError, match=rf"'<image>' as {len(made) - 1}, but .* below {len(made) - 1} only"):
            use("what is on <image>?")
