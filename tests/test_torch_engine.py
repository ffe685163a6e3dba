"""The local engine: loading, sampling, scoring and tuning, against transformers' own generate and loss as oracle."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from selftaught.config import PromptConfig
from selftaught.engines import _draw, _tune
from selftaught.engines.base import Request, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError, NonFiniteError, Stopped
from selftaught.types import Checkpoint, Example, Sampling


def engine(**options) -> TorchEngine:
    return TorchEngine(TorchEngine.Options(processes=1, threads=1, **options))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"))


def generate(e, model, prompts, sampling, seeds=(0,)):
    checkpoint = e.open(str(model))
    requests = [Request(checkpoint, p, sampling, tuple(seeds)) for p in prompts]
    return [c for _, c in sorted(e.generate(requests))]


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_greedy_tokens_equal_generate_with_padding_and_without(tmp_path, architecture):
    from transformers import AutoModelForCausalLM

    folder = tiny.checkpoint(tmp_path / architecture, architecture)
    prompts = [(1, *range(10, 10 + n)) for n in (3, 3, 5, 9)]
    found = generate(engine(dtype="float32"), folder, prompts, Sampling(max_tokens=12))
    model = AutoModelForCausalLM.from_pretrained(folder)
    for prompt, [completion] in zip(prompts, found, strict=True):
        ids = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                             max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()  # fmt: skip
        assert list(completion.ids) == ids


def test_logprobs_are_those_of_the_model(llama):
    e = engine(dtype="float32")
    [[completion]] = generate(e, llama, [(1, 20, 30)], Sampling(max_tokens=8, temperature=1.0))
    scored = e.score(e.open(str(llama)), [(1, 20, 30, *completion.ids)])[0][2:]
    assert np.allclose(completion.logprobs, scored, atol=1e-4)


def test_a_sample_depends_on_its_seed_alone_not_on_its_neighbours(llama):
    e = engine(dtype="float32")
    sampling = Sampling(n=4, max_tokens=16, temperature=1.0)
    [alone] = generate(e, llama, [(1, 40, 41)], sampling, (11, 12, 13, 14))
    many = generate(e, llama, [(1, 7), (1, 40, 41), (1, 8, 9, 10)], sampling, (11, 12, 13, 14))
    assert [c.ids for c in alone] == [c.ids for c in many[1]]
    assert len({c.ids for c in alone}) == 4


def test_sampled_tokens_follow_the_exact_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    u = torch.from_numpy(_draw.uniforms(np.arange(20_000, dtype=np.uint64), 3))
    ids, logprobs = _draw.draw(logits, u, Sampling(temperature=0.7))
    expected = torch.softmax(logits[0] / 0.7, -1).numpy()
    counts = np.bincount(ids.numpy(), minlength=4)
    chi_square = float(((counts - 20_000 * expected) ** 2 / (20_000 * expected)).sum())
    assert chi_square < 16.27, "p < 0.001 at 3 degrees of freedom"
    assert np.allclose(logprobs[:50].exp().numpy(), expected[ids[:50].numpy()], atol=1e-6)


def test_top_k_and_top_p_cut_the_tail():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(2000, 1)
    u = torch.from_numpy(_draw.uniforms(np.arange(2000, dtype=np.uint64), 0))
    assert set(_draw.draw(logits, u, Sampling(temperature=1.0, top_k=2))[0].tolist()) == {0, 1}
    assert set(_draw.draw(logits, u, Sampling(temperature=1.0, top_p=0.9))[0].tolist()) == {0, 1, 2}


def test_a_cut_completion_says_length_and_an_ended_one_says_stop(llama):
    e = engine()
    found = generate(e, llama, [(1, 50 + i) for i in range(30)], Sampling(max_tokens=90, temperature=4.0))
    ended = [c for [c] in found if c.finish == "stop"]
    cut = [c for [c] in found if c.finish == "length"]
    assert ended and all(c.ids[-1] == 2 for c in ended)
    assert cut and all(len(c.ids) == 90 and 2 not in c.ids for c in cut)


def test_room_in_the_context_is_a_samples_own(llama):
    e = engine(dtype="float32")
    sampling = Sampling(n=1, max_tokens=100, temperature=0.3)
    short, long = (1, 40, 41), (1, *range(100, 220))
    [[alone]] = generate(e, llama, [short], sampling)
    beside = generate(e, llama, [short, long], sampling)
    assert beside[0][0].ids == alone.ids, "a long neighbour does not cut a short prompt's sample short"
    assert len(beside[1][0].ids) <= 7
    assert len(alone.ids) > 7, "or this shows nothing"


def test_a_prompt_without_room_is_refused_with_the_numbers(llama):
    with pytest.raises(ModelError, match="130 tokens leaves no room in a context of 128"):
        generate(engine(), llama, [tuple([1] * 130)], Sampling())


def test_stop_ends_sampling(llama):
    e = engine()
    request = Request(e.open(str(llama)), (1, 5), Sampling(max_tokens=50, temperature=1.0), (1,))
    with pytest.raises(Stopped):
        list(e.generate([request], stop=lambda: True))


def test_worker_processes_give_the_same_samples(llama):
    prompts = [(1, 30 + i % 5, 40) for i in range(40)]
    sampling = Sampling(n=4, max_tokens=10, temperature=1.0)
    alone = generate(engine(dtype="float32"), llama, prompts, sampling, range(4))
    pool = TorchEngine(TorchEngine.Options(processes=2, threads=1, dtype="float32"))
    try:
        shared = generate(pool, llama, prompts, sampling, range(4))
    finally:
        pool.close()
    assert [[c.ids for c in group] for group in alone] == [[c.ids for c in group] for group in shared]


SCRIPT = """
import sys
from selftaught.engines.base import Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.types import Sampling

print("the script runs")
engine = TorchEngine(TorchEngine.Options(processes=2, threads=1))
llama, sampling = engine.open(sys.argv[1]), Sampling(2, 1.0, max_tokens=5)
requests = [Request(llama, (1, 30 + i), sampling, (i, i + 50)) for i in range(9)]
print(len(list(engine.generate(requests))))
engine.close()
"""


def test_a_script_without_a_main_guard_runs_once_and_through(llama, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "script.py"), str(llama)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (0, "the script runs\n9\n"), found.stderr


# ---------------------------------------------------------------- rendering


def test_a_chat_template_wins_and_a_format_serves_models_without_one(tmp_path, llama):
    e = engine()
    message = [{"role": "user", "content": "2+2"}]
    chat = e.tokens(e.open(str(llama)))
    assert chat.render(message, "plain") == "user: 2+2\nassistant:"
    assert chat.render(message, "cot").startswith("user: 2+2\nLet's think step by step.")
    plain = e.tokens(e.open(str(tiny.checkpoint(tmp_path / "base", chat=False))))
    assert plain.render(message, "plain") == "Q: 2+2\nA:"
    assert plain.render(message, "cot") == "Q: 2+2\nA: Let's think step by step."
    shown = [*message, {"role": "assistant", "content": "4"}, *message]
    assert plain.render(shown, "plain") == "Q: 2+2\nA: 4\n\nQ: 2+2\nA:"
    system = {"role": "system", "content": "Be brief."}
    assert plain.render([system, *message], "plain") == "Be brief.\n\nQ: 2+2\nA:", "a passage given there is not lost"
    assert plain.render([*message, *message], "plain") == "Q: 2+2\nA:\n\nQ: 2+2\nA:", "a second question is no answer"
    assert plain.encode("") == (1,), "nothing but the begin token"


def test_a_template_that_already_begins_with_bos_gets_no_second_one(tmp_path):
    folder = tiny.checkpoint(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[-1]['content'] }}")
    e = engine()
    tokens = e.tokens(e.open(str(folder)))
    assert tokens.encode(tokens.render([{"role": "user", "content": "x"}], "plain")).count(1) == 1


# ---------------------------------------------------------------- refusals


def broken(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "broken")


def test_missing_folder_and_file_are_named(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        engine().open(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        engine().open(str(tmp_path / "file"))


def test_an_unknown_bundled_model_lists_those_there_are():
    with pytest.raises(ModelError, match="no bundled model 'summs'"):
        engine().open("bundled:summs")


def test_pickle_weights_are_refused_unread(llama, tmp_path):
    folder = broken(llama, tmp_path)
    (folder / "model.safetensors").unlink()
    canary = tmp_path / "canary"
    evil = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    (folder / "pytorch_model.bin").write_bytes(evil)
    with pytest.raises(ModelError, match=r"pickle weights \(pytorch_model.bin\)"):
        engine().open(str(folder))
    (folder / "model.safetensors").write_bytes(evil)
    with pytest.raises(ModelError, match="not a safetensors file"):
        engine().open(str(folder))
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match="not a safetensors file"):
        engine().open(str(folder))
    assert not canary.exists()


def test_damaged_weights_config_and_tokenizer_are_named(llama, tmp_path):
    folder = broken(llama, tmp_path)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:4000])
    with pytest.raises(ModelError, match=r"not a safetensors file|cannot be loaded"):
        engine().describe(engine().open(str(folder)))
    weights.write_bytes(data)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        engine().open(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        engine().open(str(folder))


def test_a_model_that_brings_code_is_refused(llama, tmp_path):
    folder = broken(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(ModelError, match="auto_map"):
        engine().open(str(folder))


# ---------------------------------------------------------------- tuning


def example(prompt, completion, weight=1.0) -> Example:
    return Example(tuple(prompt), tuple(completion), "text", weight=weight)


def job(parent: Checkpoint, examples, steps=30, **changes) -> TuneJob:
    plan = TuneJob(parent, examples, [list(range(len(examples)))] * steps, "full", 3e-3, 2, 0.1, 1.0, 0.0, 4, 8, 7)
    return replace(plan, **changes)


def test_padding_and_prompts_are_not_in_the_loss(llama):
    ids, mask, weights = _tune.collate([example((1, 5), (6, 2)), example((1, 5, 7, 8), (9, 10, 11, 2))], "cpu")
    assert ids.shape == (2, 8)
    assert mask.sum(1).tolist() == [4, 8]
    assert weights.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]


def test_the_loss_equals_transformers_own_on_the_same_tokens(llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    some = [example((1, 5, 6), (7, 8, 2)), example((1, 9), (10, 11, 12, 13, 2))]
    loss, count = _tune._backward(model, some, autocast=False)
    ids, mask, weights = _tune.collate(some, "cpu")
    labels = torch.where(weights > 0, ids, torch.tensor(-100))
    expected = float(model(input_ids=ids, attention_mask=mask, labels=labels).loss.detach())
    assert count == 8
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_tuning_learns_and_leaves_a_loadable_folder(llama, tmp_path, kind):
    e = engine(autocast=False)
    parent = e.open(str(llama))
    before = parent.digest
    out = tmp_path / "out"
    out.mkdir()
    tuned = e.tune(job(parent, [example((1, 5, 6), (70, 71, 72, 2))] * 4, kind=kind, lr=1e-2), out)
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]
    candidate = Checkpoint("new", parent.model, str(out)) if kind == "lora" else Checkpoint("new", str(out))
    [(_, [completion])] = e.generate([Request(candidate, (1, 5, 6), Sampling(max_tokens=4), (0,))])
    assert completion.ids[:2] == (70, 71)
    assert e.open(str(llama)).digest == before, "the parent's bytes are untouched"
    assert {p.suffix for p in out.iterdir()} <= {".json", ".safetensors", ".jinja", ".md", ".model"}


def test_the_same_job_gives_the_same_bytes(llama, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        e = engine()
        e.tune(job(e.open(str(llama)), [example((1, 5), (6, 7, 2)), example((1, 8), (9, 2))], steps=5), folder)
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()


def test_an_adapters_config_does_not_depend_on_the_process(llama, tmp_path):
    e = engine()
    e.tune(job(e.open(str(llama)), [example((1, 5), (6, 7, 2))], steps=1, kind="lora"), tmp_path)
    modules = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 5 and modules == sorted(modules), "PEFT keeps a set, and a set's order follows the hash seed"


def test_a_non_finite_step_is_refused_and_many_end_the_job(llama, tmp_path):
    e = engine(autocast=False)
    out = tmp_path / "out"
    out.mkdir()
    poisoned = [example((1, 5), (6, 2), weight=float("nan"))]
    with pytest.raises(NonFiniteError, match="Nothing was saved"):
        e.tune(job(e.open(str(llama)), poisoned), out)
    assert not list(out.iterdir())
    mixed = [example((1, 5), (6, 2)), *poisoned]
    tuned = e.tune(job(e.open(str(llama)), mixed, batches=[[0], [1], [0], [0]]), out)
    assert np.isnan(tuned.losses[1]) and np.isfinite(tuned.losses[2])


def test_prompt_settings_reach_the_tokens(llama):
    prompt = PromptConfig(use_chat_template=False, format="Frage: {question} Antwort:")
    e = TorchEngine(TorchEngine.Options(prompt=prompt))
    assert e.tokens(e.open(str(llama))).render([{"role": "user", "content": "1+1"}], "plain") == "Frage: 1+1 Antwort:"
