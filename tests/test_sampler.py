"""The sampler on every architecture it names, against ``generate``, against itself in other company, against chance."""

from __future__ import annotations

import copy
import gc
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import tiny
from selftaught.config import Recipe
from selftaught.engines import _batches, _draw, _sample
from selftaught.engines._forward import Forward
from selftaught.engines._lean import Lean, lean
from selftaught.engines._memory import free_bytes
from selftaught.engines._native import Native, available
from selftaught.engines.base import Completion, Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError, Stopped
from selftaught.loop import engine_to_ask
from selftaught.types import Checkpoint, Guide, Sampling

VOCABULARY, CONTEXT = 211, 96
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GPT = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
WINDOW = {"sliding_window": 24}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
ODD = {"hidden_size": 100, "intermediate_size": 77, "num_attention_heads": 5, "num_key_value_heads": 1}
MODELS: dict[str, tuple[Any, Any, dict[str, Any], bool]] = {  # class, config, settings, whether the lean path takes it
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, SMALL, True),
    "llama, tied": (tf.LlamaForCausalLM, tf.LlamaConfig, {**SMALL, "tie_word_embeddings": True}, True),
    "llama, odd sizes": (tf.LlamaForCausalLM, tf.LlamaConfig, {**SMALL, **ODD}, True),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, SMALL, True),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, SMALL, True),
    "mistral": (tf.MistralForCausalLM, tf.MistralConfig, {**SMALL, "sliding_window": None}, True),
    "mistral, window": (tf.MistralForCausalLM, tf.MistralConfig, {**SMALL, **WINDOW}, False),
    "gemma": (tf.GemmaForCausalLM, tf.GemmaConfig, SMALL, False),
    "gemma2": (tf.Gemma2ForCausalLM, tf.Gemma2Config, {**SMALL, **WINDOW, **LAYERS}, False),
    "gemma3": (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, {**SMALL, **WINDOW, **LAYERS}, False),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig,
                 {k: v for k, v in SMALL.items() if k not in ("head_dim", "num_key_value_heads")}, False),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, 
             {**GPT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}, False),
}  # fmt: skip


class Plain:
    """A vocabulary of numbers."""

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return {}

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(VOCABULARY)}


class Tokens:
    context, eos, tokenizer = CONTEXT, None, Plain()

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


PATHS = [(name, path) for name, (*_, fits) in MODELS.items() for path in ((Native, Lean) if fits else (Forward,))]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On products this small two threads wait for each other, on a busy machine far longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=PATHS, ids=lambda p: f"{p[0]}, {p[1].__name__.lower()}")
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    name, path = request.param
    if path is Native and not available():
        pytest.skip("there is no C++ compiler here")
    kind, config, settings, _ = MODELS[name]
    torch.manual_seed(3)
    made = kind(config(**settings, attn_implementation="eager")).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in made.parameters():  # random weights as they are drawn hardly look at what stands before
            if weight.dim() == 2:
                weight.mul_(4)
    made.generation_config.eos_token_id = None
    made.path = path
    yield made


def prompt(i: int, length: int) -> tuple[int, ...]:
    return tuple((31 * i + 7 * k) % (VOCABULARY - 3) + 3 for k in range(length))


def asked(lengths: list[int], n: int, sampling: Sampling) -> list[Request]:
    checkpoint = Checkpoint("m", "m")
    return [Request(checkpoint, prompt(i, length), sampling, tuple(range(100 * i, 100 * i + n)))
            for i, length in enumerate(lengths)]  # fmt: skip


def run(model: Any, requests: list[Request], count: int) -> list[list[Completion]]:
    parts = [_batches.Part(i, 0, len(r.seeds)) for i, r in enumerate(requests)]
    kernels = available() if getattr(model, "path", Native) is Native else ""
    found = dict(_sample.sample_batch(model, Tokens(), requests, parts, count, kernels=kernels))
    return [found[part] for part in parts]


def test_the_path_is_the_one_that_fits(model: Any) -> None:
    assert type(_sample.decoder(model, available() if model.path is Native else "")) is model.path


def test_greedy_tokens_are_those_of_generate(model: Any) -> None:
    """Beyond the sliding window too, and with more prompts than slots."""
    lengths = [3, 3, 9, 17, 30, 40]
    found = run(model, asked(lengths, 1, Sampling(1, 0.0, max_tokens=32)), 4)
    for i, length in enumerate(lengths):
        ids = torch.tensor([prompt(i, length)])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
        assert list(found[i][0].ids) == made[0, length:].tolist(), length


def test_a_sample_is_the_same_bits_alone_among_7_and_among_63_others(model: Any) -> None:
    """On paths of our own; through a model's own forward the tokens are the same, and log-probs up to rounding."""
    lengths = [1, 3, 11, 23]
    sampling = Sampling(1, 1.0, max_tokens=24)
    alone = [run(model, [r], 1)[0][0] for r in asked(lengths, 1, sampling)]
    for others, slots in ((7, 8), (7, 3), (63, 64), (63, 20)):
        crowd = asked([*lengths, *[5 + i % 29 for i in range(others - 3)]], 1, sampling)
        found = run(model, crowd, slots)
        for mine, theirs in zip(alone, found, strict=False):
            assert mine.ids == theirs[0].ids, (others, slots)
            same = mine.logprobs == theirs[0].logprobs
            assert same if model.path is not Forward else np.allclose(mine.logprobs, theirs[0].logprobs, atol=1e-5)


@pytest.mark.parametrize("kv", [1, 2])
@pytest.mark.parametrize("kernels", [True, False])
def test_nor_does_company_matter_to_long_prompts_and_many_queries_per_key(kernels: bool, kv: int) -> None:
    """Widths between 192 and 384, and the rests of such behind 512, are where torch's sums are cut otherwise."""
    torch.manual_seed(0)
    settings = {**SMALL, "num_attention_heads": 8, "num_key_value_heads": kv, "max_position_embeddings": 1200}
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**settings)).eval()
    model.generation_config.eos_token_id = None
    tokens, path = Tokens(), available() if kernels else ""
    tokens.context = 1200

    def sampled(lengths: list[int], slots: int, new: int = 60) -> list[Completion]:
        requests = asked(lengths, 1, Sampling(1, 1.0, max_tokens=new))
        parts = [_batches.Part(i, 0, 1) for i in range(len(requests))]
        found = dict(_sample.sample_batch(model, tokens, requests, parts, slots, kernels=path))
        return [found[part][0] for part in parts]

    for length in (10, 100, 150, 220, 300, 780):
        new = 300 if length == 10 else 60
        (alone,) = sampled([length], 1, new)
        assert alone == sampled([length, 400], 4, new)[0] == sampled([length, *range(80, 830, 50)], 8, new)[0], length


def test_samples_of_one_prompt_and_of_many_lengths_fill_the_slots_and_come_back_in_order(model: Any) -> None:
    """Ends are drawn, so that rows leave at all times and others take their slots."""
    model.generation_config.eos_token_id = list(range(3, 10))
    try:
        requests = asked([6, 14, 14, 20], 12, Sampling(12, 1.0, max_tokens=30))
        found, fewer = run(model, requests, 16), run(model, requests, 5)
    finally:
        model.generation_config.eos_token_id = None
    assert [[c.ids for c in some] for some in found] == [[c.ids for c in some] for some in fewer]
    every = [c for some in found for c in some]
    assert {c.finish for c in every} == {"stop", "length"} and len({len(c.ids) for c in every}) > 5
    assert all((c.ids[-1] in range(3, 10)) == (c.finish == "stop") for c in every)


def test_log_probs_are_those_of_the_model(model: Any) -> None:
    (some,) = run(model, asked([8], 3, Sampling(3, 1.0, max_tokens=12)), 4)
    for c in some:
        ids = torch.tensor([[*prompt(0, 8), *c.ids]])
        with torch.inference_mode():
            expected = torch.log_softmax(model(input_ids=ids).logits[0, 7:-1].float(), -1)
        told = expected.gather(1, ids[0, 8:, None])[:, 0]
        assert np.allclose(c.logprobs, told, atol=2e-4)


@pytest.fixture
def ending() -> Any:
    """A Llama that ends often: seven of its tokens are ends."""
    torch.manual_seed(3)
    kind, config, settings, _ = MODELS["llama"]
    made = kind(config(**settings)).eval()
    made.generation_config.eos_token_id = list(range(3, 10))
    return made


def test_a_stop_string_ends_a_row_and_is_found_across_tokens(ending: Any) -> None:
    ending.generation_config.eos_token_id = None
    (free,) = run(ending, asked([5], 1, Sampling(1, 1.0, max_tokens=20)), 1)
    words = " ".join(map(str, free[0].ids[4:6]))
    (held,) = run(ending, asked([5], 1, Sampling(1, 1.0, max_tokens=20, stop=(words,))), 1)
    assert held[0].ids == free[0].ids[:6] and held[0].finish == "stop"
    (later,) = run(ending, asked([5], 1, Sampling(1, 1.0, max_tokens=20, stop=(words,), min_tokens=7)), 1)
    assert later[0].ids[:7] == free[0].ids[:7] and len(later[0].ids) > 6, "it was complete before that many"


def test_no_sample_ends_before_it_has_its_least_tokens_and_each_request_may_ask_for_its_own(ending: Any) -> None:
    requests = [r for least in (0, 5, 12) for r in asked([6], 40, Sampling(40, 1.0, max_tokens=20, min_tokens=least))]
    free, five, twelve = run(ending, requests, 16)
    for some, least in ((free, 0), (five, 5), (twelve, 12)):
        assert all(not set(c.ids[:least]) & set(range(3, 10)) and len(c.ids) > least for c in some)
    assert min(len(c.ids) for c in free) < 5, "or the bound was never needed"
    assert {c.finish for c in five} == {"stop", "length"}


def test_each_sample_gets_the_length_its_own_request_allows(ending: Any) -> None:
    ending.generation_config.eos_token_id = None
    lengths = [1 + i * 7 % 30 for i in range(25)]
    requests = [Request(Checkpoint("m", "m"), prompt(i % 3, 9), Sampling(1, 1.0, max_tokens=n), (i,))
                for i, n in enumerate(lengths)]  # fmt: skip
    batches = _batches.plan(requests, 64)
    assert len(batches) == 1, "lengths do not part them"
    assert [len(some[0].ids) for some in run(ending, requests, 6)] == lengths


def test_parts_come_as_they_finish(ending: Any) -> None:
    ending.generation_config.eos_token_id = None
    requests = [Request(Checkpoint("m", "m"), prompt(i, 9), Sampling(1, 1.0, max_tokens=n), (i,))
                for i, n in enumerate((30, 4, 17))]  # fmt: skip
    parts = [_batches.Part(i, 0, 1) for i in range(3)]
    assert [p.request for p, _ in _sample.sample_batch(ending, Tokens(), requests, parts, 3)] == [1, 2, 0]


@pytest.mark.parametrize("kernels", [True, False])
def test_guided_samples_match_their_guide_and_are_the_same_in_other_company(tmp_path: Path, kernels: bool) -> None:
    """On logits that are wider than the vocabulary, with rows that leave and trade places."""
    model = str(tiny.checkpoint(tmp_path / "model"))
    guide = Guide("regex", "[ab]{2,9}(-[0-9]{1,3})?")
    sampling = Sampling(8, 1.0, max_tokens=40, guide=guide)
    found = {}
    for rows in (3, 64):
        options = {"processes": 1, "threads": 1, "max_rows": rows} | ({} if kernels else {"kernels": False})
        engine = TorchEngine(TorchEngine.Options.model_validate(options))
        checkpoint = engine.open(model)
        seeds = [tuple(range(8 * i, 8 * i + 8)) for i in range(6)]
        asked = [Request(checkpoint, (1, 70 + i), sampling, some) for i, some in enumerate(seeds)]
        found[rows] = dict(engine.generate(asked))
    assert found[3] == found[64]
    tokens = engine.tokens(checkpoint)
    said = [tokens.decode(c.ids) for i in range(6) for c in found[64][i]]
    assert all(re.fullmatch(guide.text, text) for text in said) and len(set(said)) > 20
    assert all(c.finish == "stop" for some in found[64].values() for c in some)


@pytest.mark.parametrize("size", [40, 1000, 5000])
def test_tokens_of_small_and_large_vocabularies_follow_the_exact_distribution(size: int) -> None:
    """Chi-square with 39 degrees of freedom on the most likely tokens; p = 0.0001 at 80."""
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2.5, size)).float()
    n = 24_000
    uniforms = torch.from_numpy(_draw.uniforms(np.arange(n, dtype=np.uint64), 5))
    found = torch.cat([_draw.draw(logits.expand(len(u), -1), u, Sampling(1, 0.8))[0] for u in uniforms.split(4000)])
    shares = torch.softmax(logits.double() / 0.8, -1)
    top = shares.topk(39).indices
    seen = np.array([float((found == t).sum()) for t in top] + [0.0])
    seen[-1] = n - seen.sum()
    expected = np.array([*(float(shares[t]) * n for t in top), float(1 - shares[top].sum()) * n])
    use = expected > 1e-6
    assert ((seen - expected)[use] ** 2 / expected[use]).sum() < 80


def test_a_token_without_weight_is_never_drawn_at_the_edges() -> None:
    logits = torch.full((1, 700), -torch.inf)
    logits[0, [130, 400]] = 0.0
    for u, token in ((0.0, 130), (0.49999999, 130), (0.5, 400), (1 - 2**-53, 400)):
        assert _draw.draw(logits, torch.tensor([u], dtype=torch.float64), Sampling(1, 1.0))[0].tolist() == [token]


def test_a_model_that_the_lean_path_would_get_wrong_goes_through_its_own_forward() -> None:
    kind, config, settings, _ = MODELS["llama"]
    torch.manual_seed(1)
    model = kind(config(**settings)).eval()
    assert lean(model) is not None
    model.model.layers[0].self_attn.scaling = 1.0
    model.model.layers[0].input_layernorm.register_forward_hook(lambda module, given, out: 2 * out)
    assert lean(model) is None, "it gives other logits"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(model: Any, temperature: float) -> None:
    """On every path; the kernels refuse such a model on their probe, and it goes through its own forward."""
    broken = copy.deepcopy(model)
    broken.path = model.path
    next(p for p in broken.parameters() if p.dim() == 1).data[0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        run(broken, asked([5], 3, Sampling(3, temperature, max_tokens=4)), 2)


def test_a_model_goes_when_nobody_holds_it_any_more() -> None:
    for name in ("llama", "gpt2"):
        kind, config, settings, _ = MODELS[name]
        made = kind(config(**settings)).eval()
        _sample.decoder(made, available()), _sample.decoder(made)
        held = weakref.ref(made)
        del made
        gc.collect()
        assert held() is None, name


def test_batches_hold_every_sample_once_and_enough_of_them_for_every_worker() -> None:
    requests = asked([5, 9, 7], 50, Sampling(50, 1.0, max_tokens=8))
    batches = _batches.plan(requests, 1, workers=2)
    rows = sorted((p.request, i) for b in batches for p in b for i in range(p.first, p.last))
    assert rows == [(r, i) for r in range(3) for i in range(50)]
    assert all(sum(map(len, b)) <= _batches.BATCH_SLOTS for b in batches)
    wide = _batches.plan(asked([5] * 40, 50, Sampling(50, 1.0, max_tokens=8)), 256, workers=2)
    assert len(wide) >= 4


def test_kernels_are_used_where_they_fit_and_missed_aloud_where_they_must_be_used(tmp_path: Path) -> None:
    """A compiler that fails is no compiler; whoever insists on kernels is told what it said."""
    broken = tmp_path / "c++"
    broken.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/log\necho cannot compile anything >&2\nexit 1\n")
    broken.chmod(0o755)
    code = """
import sys
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError, Stopped
for kernels in ("auto", False, True):
    engine = TorchEngine(TorchEngine.Options(processes=1, kernels=kernels))
    try:
        facts = engine.describe(engine.open(sys.argv[1]))
        print(facts["kernels"], facts["sampler"])
    except ModelError as error:
        print(error)
"""
    asked = [sys.executable, "-W", "ignore", "-c", code, str(tiny.checkpoint(tmp_path / "model"))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CXX": str(broken)}
    said = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["False torch", "False torch"]
    assert len((tmp_path / "log").read_text().split()) == 2, "once for auto, and once for who insists"
    assert "cannot compile anything" in said[2] and "engine.kernels=false" in said[3]


def test_as_many_slots_as_have_room_in_what_is_free() -> None:
    requests = asked([5, 30], 1, Sampling(1, 1.0, max_tokens=70))
    cost = _batches.Cost(100, 7)
    most = [_batches.seats(requests, CONTEXT, cost, free, 64) for free in (10**9, (100 * CONTEXT + 7) * 9, 5)]
    assert most == [64, 9, 1], "a row is never longer than the context"
    assert 0 < free_bytes("cpu") < 2**50


def test_what_a_control_group_holds_of_files_is_free(tmp_path: Path) -> None:
    for name, said in (("max", "8000000"), ("current", "7900000"),
                       ("stat", "anon 900000\nactive_file 5000000\ninactive_file 2000000\n")):  # fmt: skip
        (tmp_path / f"memory.{name}").write_text(said)
    assert free_bytes("cpu", str(tmp_path)) == 7_100_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes("cpu", str(tmp_path)) > 8_000_000


def test_a_stop_is_heard_between_prompts_that_are_read(ending: Any) -> None:
    requests = asked([5 + i for i in range(40)], 1, Sampling(1, 1.0, max_tokens=1))
    parts = [_batches.Part(i, 0, 1) for i in range(40)]
    heard: list[bool] = []

    def stop() -> bool:
        heard.append(True)
        return len(heard) > 2

    with pytest.raises(Stopped):
        list(_sample.sample_batch(ending, Tokens(), requests, parts, 4, stop=stop))
    assert len(heard) == 3


def test_the_engine_says_how_many_rows_it_samples_at_once(tmp_path: Path) -> None:
    engine = TorchEngine(TorchEngine.Options(processes=1))
    checkpoint = engine.open(str(tiny.checkpoint(tmp_path / "model")))
    assert engine._slots(checkpoint) == (64 if engine.device == "cpu" else 256)
    assert TorchEngine(TorchEngine.Options(max_rows=7))._slots(checkpoint) == 7


def test_a_run_made_with_kernels_can_be_asked_where_they_cannot_be_built() -> None:
    made_with = {"name": "torch_engine", "kernels": True, "threads": 1}
    others = {"method": {"name": "self_consistency"}, "tasks": {"name": "world_sums"}}
    recipe = Recipe.model_validate({"engine": made_with, **others})
    engine: Any = engine_to_ask(recipe)
    assert engine.options.kernels == "auto" and engine.options.threads == 1
