"""Throw-away adapters on any model: as plain PEFT would train them, and the same in any company and on any worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from selftaught.engines import _many, _pool, _stacked, _trials, _tune
from selftaught.engines._adapters import sites
from selftaught.engines._sample import decoder
from selftaught.engines.base import Completion, Notice, Request, TrialJob, Trialled, TuneJob, never, unheard
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError, OutOfMemory, Stopped
from selftaught.types import Checkpoint, Example, Sampling
from test_engine_faults import Heard, linux, pids, workers

SAMPLING = Sampling(temperature=1.0, max_tokens=8)
PROMPTS = ((1, 5, 6), (1, 9, 10, 11, 12))
GOLDS = ((7, 8, 2), (9, 2))


def engine(**options: Any) -> TorchEngine:
    made = {"processes": 1, "threads": 1, "dtype": "float32", "autocast": False, **options}
    return TorchEngine(TorchEngine.Options.model_validate(made))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("parents")
    made = engine()
    return {name: made.open(str(tiny.checkpoint(folder / name, name))) for name in tiny.ARCHITECTURES}


@pytest.fixture(scope="module")
def two_parents(parents: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, ...]:
    """A model, and the same with an adapter."""
    out = tmp_path_factory.mktemp("adapter")
    made = engine()
    made.tune(trial(parents["gpt_neox"], 99).job, out)
    return parents["gpt_neox"], made.open(str(out))


def trial(parent: Checkpoint, number: int, weight: float = 1.0, **changes: Any) -> TrialJob:
    """Of each number another text, other lengths and another count of steps."""
    examples = [
        Example((1, 5 + number % 200), (*((7 * number + 3 * k + j) % 250 + 5 for j in range(length)), 2), "t")
        for k in range(2 + number % 3)
        for length in [5 + (3 * number + 11 * k) % 40]
    ]
    examples[1] = replace(examples[1], weight=weight)
    n = len(examples)
    plan = [[k % n, (k + 1) % n] for k in range(4 + number % 4)]
    job = TuneJob(parent, examples, plan, "lora", 1e-2, 2, 0.1, 1.0, 0.01, 4, 8, number)
    return TrialJob(replace(job, **changes), PROMPTS, SAMPLING, (number, 7), GOLDS)


def tried(jobs: Sequence[TrialJob], made: TorchEngine | None = None, **how: Any) -> list[Trialled]:
    found = sorted((made or engine()).trials(jobs, **how), key=lambda item: item[0])
    assert [i for i, _ in found] == [*range(len(jobs))]
    return [result for _, result in found]


def on_any_model(
    model: Any, jobs: Sequence[TrialJob], free: int = 1 << 28, notice: Notice = unheard, bf16: bool = False
) -> list[Trialled]:
    """By the path for any architecture, whatever ``model`` is."""
    tokens = engine().tokens(jobs[0].job.parent)
    found = dict(_stacked.run(model, tokens, jobs, bf16=bf16, slots=8, free=free, stop=never, notice=notice))
    return [found[i] for i in range(len(jobs))]


def loaded(parent: Checkpoint) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(parent.model).eval()


def close(a: Trialled, b: Trialled) -> bool:
    """Same tokens, figures as near as float32 is to itself in another order."""
    pairs = [(a.tuned.losses, b.tuned.losses), (a.tuned.grad_norms, b.tuned.grad_norms),
             *zip(a.logprobs, b.logprobs, strict=True)]  # fmt: skip
    ids = [c.ids for c in a.completions] == [c.ids for c in b.completions]
    return ids and all(np.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in pairs)


# ---------------------------------------------------------------- as PEFT does it


def by_peft(job: TrialJob) -> tuple[list[float], Any]:
    """One adapter in the plainest loop: an example at a time, PEFT's layers, torch's AdamW."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plan = job.job
    base = AutoModelForCausalLM.from_pretrained(plan.parent.model).eval()
    torch.manual_seed(plan.seed)
    targets = [*plan.lora_targets] or "all-linear"
    config = LoraConfig(r=plan.lora_rank, lora_alpha=plan.lora_alpha, target_modules=targets, task_type="CAUSAL_LM",
                        fan_in_fan_out=base.config.model_type == "gpt2")  # fmt: skip
    model = get_peft_model(base, config).eval()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, betas=(0.9, 0.98), weight_decay=plan.weight_decay)
    losses = []
    for step, batch in enumerate(plan.batches):
        some = [plan.examples[i] for i in batch]
        total = sum(len(e.completion_ids) for e in some)
        loss = sum(-e.weight * scores(model, e.prompt_ids, e.completion_ids).sum() for e in some) / total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, plan.clip)
        for group in optimizer.param_groups:
            group["lr"] = _tune.learning_rate(step, len(plan.batches), plan)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, model


def scores(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def greedy(model: Any, prompt: Sequence[int]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    return tuple(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("path", ["its own", "any"])
def test_an_adapter_is_the_one_that_a_plain_loop_with_peft_trains(
    parents: dict[str, Checkpoint], architecture: str, path: str
) -> None:
    parent, changes = parents[architecture], {"lora_rank": 2, "lora_alpha": 16} if path == "any" else {}
    jobs = [trial(parent, number, weight=0.5, **changes) for number in (3, 4)]
    jobs = [replace(job, sampling=Sampling(max_tokens=8)) for job in jobs]
    for job, found in zip(jobs, tried(jobs) if path == "its own" else on_any_model(loaded(parent), jobs), strict=True):
        losses, model = by_peft(job)
        assert np.allclose(found.tuned.losses, losses, rtol=1e-5, atol=1e-5), "every step, so every weight that matters"
        assert [c.ids for c in found.completions] == [greedy(model, prompt) for prompt in PROMPTS]
        with torch.no_grad():
            golds = [scores(model, p, g).tolist() for p, g in zip(PROMPTS, GOLDS, strict=True)]
        assert all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found.logprobs, golds, strict=True))
        assert losses[-1] < losses[0] and found.tuned.tokens == sum(
            len(job.job.examples[i].completion_ids) for batch in job.job.batches for i in batch
        )


@pytest.mark.parametrize("which", ["gpt_neox", "gpt2", "with an adapter", "with an adapter, and fewer layers"])
def test_what_is_kept_loads_in_peft_and_answers_the_same(
    parents: dict[str, Checkpoint], two_parents: tuple[Checkpoint, ...], which: str, tmp_path: Path
) -> None:
    """On a parent with an adapter it is both in one, on the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    targets = ("dense", "dense_h_to_4h") if "fewer" in which else ()
    job = trial(parents.get(which, two_parents[1]), 3, lora_rank=2, lora_targets=targets)
    job = replace(job, sampling=Sampling(max_tokens=8), keep=tmp_path)
    [found] = tried([job])
    base = AutoModelForCausalLM.from_pretrained(job.job.parent.model)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert [greedy(model, p) for p in PROMPTS] == [c.ids for c in found.completions]
    kept = engine().open(str(tmp_path))
    assert (kept.model, kept.adapter) == (job.job.parent.model, str(tmp_path))
    [again] = tried([replace(job, job=replace(job.job, parent=kept, batches=()), keep=None)])
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(found.logprobs, again.logprobs, strict=True))


def test_what_stands_on_an_adapter_of_another_kind_cannot_be_kept(
    two_parents: tuple[Checkpoint, ...], tmp_path: Path
) -> None:
    theirs = Path(shutil.copytree(str(two_parents[1].adapter), tmp_path / "theirs"))
    config = json.loads((theirs / "adapter_config.json").read_text())
    (theirs / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    (tmp_path / "kept").mkdir()
    with pytest.raises(ModelError, match=r"is no plain LoRA.*\n.*merge_and_unload"):
        tried([replace(trial(engine().open(str(theirs)), 3), keep=tmp_path / "kept")])


# ---------------------------------------------------------------- in any company


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("path", ["its own", "any"])
def test_a_job_is_the_same_alone_and_among_others_to_the_last_bit(
    parents: dict[str, Checkpoint], architecture: str, path: str
) -> None:
    jobs = [trial(parents[architecture], number) for number in range(12)]
    made, model = engine(), loaded(parents[architecture])

    def results(some: list[TrialJob]) -> list[Trialled]:
        return tried(some, made) if path == "its own" else on_any_model(model, some)

    together = results(jobs)
    assert len({found.tuned.losses for found in together}) == 12, "all different"
    for at in (0, 7):
        assert results([jobs[at]]) == [together[at]]
        assert results([jobs[(at + 3) % 12], jobs[at]])[1] == together[at]


def test_ranks_layers_rates_and_lengths_may_differ_in_one_call(parents: dict[str, Checkpoint]) -> None:
    llama = parents["llama"]
    jobs = [
        trial(llama, 1),
        trial(llama, 2, lora_rank=2),
        trial(llama, 3, lora_targets=("q_proj", "down_proj")),
        trial(llama, 4, lr=1e-3, clip=0.1, weight_decay=0.0),
        trial(llama, 5, lora_targets=("q_proj", "down_proj"), lora_alpha=32),
        trial(llama, 6, batches=[[0]]),
    ]
    together = tried(jobs)
    assert together == [tried([job])[0] for job in jobs]
    for job in (jobs[2], jobs[4]):
        assert np.allclose(together[jobs.index(job)].tuned.losses, by_peft(job)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"no linear layer called 'c_attn'.*\n.*q_proj"):
        tried([trial(llama, 1, lora_targets=("c_attn",))])


def test_jobs_of_two_parents_each_go_to_their_own(two_parents: tuple[Checkpoint, ...]) -> None:
    jobs = [trial(two_parents[i % 2], i // 2) for i in range(6)]
    steps: list[tuple[int, int, str]] = []
    together = tried(jobs, progress=lambda *said: steps.append(said))
    assert together == [tried([job])[0] for job in jobs]
    made = engine()
    made.notice = heard = Heard()
    tried([*jobs, trial(two_parents[1], 7, weight=float("nan"), batches=[[1]])], made)
    assert {f["job"] for event, f in heard if event == "step refused"} == {6}
    assert all(together[i] != together[i + 1] for i in (0, 2, 4)), "another parent is another job"
    assert steps == [(k + 1, 6, "adapters") for k in range(6)]


def test_without_batches_it_is_the_parent_that_is_asked(two_parents: tuple[Checkpoint, ...]) -> None:
    made = engine()
    for parent in two_parents:
        jobs = [replace(trial(parent, n, batches=()), prompts=PROMPTS[::-1]) for n in range(3)]
        requests = [Request(parent, p, SAMPLING, (s,)) for t in jobs for p, s in zip(t.prompts, t.seeds, strict=True)]
        answers: dict[int, list[Completion]] = dict(made.generate(requests))
        golds = made.score(parent, [(*p, *g) for p, g in zip(PROMPTS[::-1], GOLDS, strict=True)])
        for i, found in enumerate(tried([jobs[0], trial(parent, 8), *jobs[1:]], made)[:1]):
            assert found.completions == (answers[2 * i][0], answers[2 * i + 1][0])
            assert [*map(len, found.logprobs)] == [3, 2] and found.tuned.losses == ()
            assert [*map(list, found.logprobs)] == [s[-len(g) :] for s, g in zip(golds, GOLDS, strict=True)]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("path", ["its own", "any"])
def test_an_adapter_that_learned_nothing_is_the_parent_to_the_last_bit(
    parents: dict[str, Checkpoint], path: str, bf16: bool
) -> None:
    for parent in (parents["llama"], parents["gpt_neox"]):
        jobs = [trial(parent, n, lr=0.0) for n in range(3)]
        jobs += [replace(t, job=replace(t.job, batches=())) for t in jobs]
        model = loaded(parent)
        found = tried(jobs, engine(autocast=bf16)) if path == "its own" else on_any_model(model, jobs, bf16=bf16)
        for nothing, plain in zip(found[:3], found[3:], strict=True):
            assert nothing.tuned.losses and not plain.tuned.losses
            assert nothing.logprobs == plain.logprobs and nothing.completions == plain.completions


def test_no_golds_no_scores_no_prompts_no_answers(parents: dict[str, Checkpoint]) -> None:
    silent = replace(trial(parents["llama"], 2), prompts=(), seeds=(), golds=())
    unscored = replace(trial(parents["llama"], 2), golds=())
    first, second = tried([silent, unscored])
    assert first.completions == first.logprobs == second.logprobs == () and len(second.completions) == 2
    assert first.tuned == second.tuned and first.error is None


def test_llama_like_models_have_a_path_of_their_own_with_the_same_results(parents: dict[str, Checkpoint]) -> None:
    models = {name: loaded(parent) for name, parent in parents.items()}
    assert {name for name, model in models.items() if _many.fits(model)} == {"llama", "qwen2"}
    for name in ("llama", "qwen2"):
        jobs = [trial(parents[name], number) for number in range(3)]
        assert all(close(*pair) for pair in zip(on_any_model(models[name], jobs), tried(jobs), strict=True))


def test_the_model_is_as_it_was(parents: dict[str, Checkpoint]) -> None:
    model = loaded(parents["llama"])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    twin = _stacked.Twin(model, sites(model))
    assert all(a is b for a, b in zip(model.parameters(), twin.model.parameters(), strict=True)), "no weight twice"
    assert decoder(model).name == "torch" and decoder(twin.model).name == "transformers", "adapters are in its forward"
    assert {type(m).__name__ for m in model.modules()}.isdisjoint({"Adapted"})
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


class Sorted(torch.nn.Module):
    """Sends its rows on in an order of its own, as experts do."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        order = rows[:, 0].argsort()
        return self.inner(rows[order])[order.argsort()].view(x.shape)


def test_a_layer_that_sees_rows_in_another_order_takes_adapters_one_at_a_time(parents: dict[str, Checkpoint]) -> None:
    parent = parents["gpt_neox"]
    model = loaded(parent)
    assert _stacked.Twin(model, sites(model)).splits()
    model.gpt_neox.layers[0].mlp = Sorted(model.gpt_neox.layers[0].mlp)
    assert not _stacked.Twin(model, sites(model)).splits()
    jobs = [trial(parent, number) for number in range(4)]
    assert all(close(*pair) for pair in zip(on_any_model(model, jobs), tried(jobs), strict=True))


def test_experts_that_are_no_linear_layers_are_left_as_they_are(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small = AutoConfig.for_model("mixtral", vocab_size=260, num_local_experts=4, num_key_value_heads=2, **shape)
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    parent = engine().open(str(tmp_path))
    jobs = [trial(parent, number) for number in (3, 4)]
    everywhere = ("q_proj", "k_proj", "v_proj", "o_proj")
    for job, found in zip(jobs, tried(jobs), strict=True):
        losses, _ = by_peft(replace(job, job=replace(job.job, lora_targets=everywhere)))
        assert np.allclose(found.tuned.losses, losses, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what goes wrong


def test_a_job_that_leaves_the_numbers_ends_alone(parents: dict[str, Checkpoint], tmp_path: Path) -> None:
    made = engine()
    made.notice = heard = Heard()
    good = [trial(parents["llama"], n) for n in range(4)]
    bad = replace(
        trial(parents["llama"], 7, weight=float("nan"), batches=[[0], [1], [1], [1], [1], [0]]), keep=tmp_path
    )
    found = tried([*good[:2], bad, *good[2:]], made)
    lost = found.pop(2)
    assert "step 4 has loss nan" in str(lost.error) and "after 3 refused steps" in str(lost.error)
    assert lost.completions == lost.logprobs == () and len(lost.tuned.losses) == 5
    assert not [*tmp_path.iterdir()], "nothing of it is kept"
    assert found == tried(good)
    refused = [(f["job"], f["step"], f["refused"]) for event, f in heard if event == "step refused"]
    assert refused == [(2, 1, 1), (2, 2, 2), (2, 3, 3)]
    [mended] = tried([replace(bad, job=replace(bad.job, batches=[[0], [1], [0]]))])
    assert mended.error is None and len(mended.completions) == 2, "one such step is skipped"


def test_finite_weights_that_give_no_finite_answer_cost_their_job_alone(parents: dict[str, Checkpoint]) -> None:
    good, wild = trial(parents["llama"], 1), trial(parents["llama"], 2, lr=1e30, clip=1e9, warmup_steps=0)
    found = tried([wild, good])
    assert found[0].error is not None and not found[0].completions
    assert found[1] == tried([good])[0]


LONG = [Example((1,), (5,) * 128, "t")] * 9
ODD: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "a long prompt": ({"prompts": [(5,) * 128, (1, 5)], "golds": ()}, {}, ModelError, "128 tokens leaves no room"),
    "a long gold": ({"golds": ((5,) * 126, (9, 2))}, {}, ModelError, "answer of 129 tokens are longer .* 128"),
    "a long example": ({}, {"examples": LONG}, ModelError, "129 tokens is longer .* 128"),
    "fewer golds": ({"golds": GOLDS[:1]}, {}, ValueError, "one gold per prompt or none"),
    "fewer seeds": ({"seeds": (1,)}, {}, ValueError, "one seed per prompt"),
    "no rank": ({}, {"lora_rank": 0}, ValueError, "rank 1 at least, not lora 0"),
    "not lora": ({}, {"kind": "full"}, ValueError, "LoRA adapter .* not full"),
    "no such example": ({}, {"batches": [[0], [99]]}, ValueError, "examples that are not there"),
    "nothing to keep": ({"keep": Path("kept")}, {"batches": ()}, ValueError, "no adapter to keep"),
    "no such layer": ({}, {"lora_targets": ("nowhere",)}, ModelError, "no linear layer called 'nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    parents: dict[str, Checkpoint], architecture: str, what: str
) -> None:
    changes, plan, error, said = ODD[what]
    odd = replace(trial(parents[architecture], 1, **plan), **changes)
    done: list[int] = []
    with pytest.raises(error, match=said):
        for i, _ in engine().trials([trial(parents[architecture], 2, batches=[[0]] * 9), odd]):
            done.append(i)
    assert not done


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_example_of_nothing_teaches_nothing(parents: dict[str, Checkpoint], architecture: str) -> None:
    nothing, some = Example((), (), ""), Example((1, 5), (7, 8, 2), "")
    jobs = [
        trial(parents[architecture], 1, examples=[nothing, some], batches=[[0], [1]]),
        trial(parents[architecture], 1, examples=[nothing, some], batches=[[0, 1], [1]]),
        trial(parents[architecture], 1, examples=[nothing, some], batches=[[], [1]]),
        trial(parents[architecture], 2),
    ]
    alone, beside, without, other = tried(jobs)
    assert alone.tuned == without.tuned and alone.tuned.losses[0] == 0.0 and alone.error is beside.error is None
    assert np.isclose(
        beside.tuned.losses[0],
        tried([replace(jobs[0], job=replace(jobs[0].job, batches=[[1], [1]]))])[0].tuned.losses[0],
    )
    assert other == tried(jobs[3:])[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_results_come_while_others_are_in_training_and_in_little_memory(
    parents: dict[str, Checkpoint], architecture: str
) -> None:
    jobs = [trial(parents[architecture], number) for number in range(24)]
    model, tokens = loaded(parents[architecture]), engine().tokens(parents[architecture])
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return False

    path = _many if architecture == "llama" else _stacked
    each = 16 * 4 * sum(site.inputs + site.outputs for site in sites(model))  # bytes of an adapter
    free = int(6 * each / (_many.TABLE_SHARE if path is _many else 1))
    bare = [replace(job, prompts=(), seeds=(), golds=()) for job in jobs]  # so that only training asks
    at = []
    for _ in path.run(model, tokens, bare, bf16=False, slots=8, free=free, stop=stop, notice=unheard):
        at.append(len(asked))
    assert at[2] < len(asked) / 3
    found = dict(path.run(model, tokens, jobs, bf16=False, slots=8, free=free, stop=never, notice=unheard))
    assert [found[i] for i in range(24)] == (tried(jobs) if path is _many else on_any_model(model, jobs))


def test_no_more_rows_are_sampled_at_once_than_the_recipe_says(parents: dict[str, Checkpoint]) -> None:
    jobs, calls = [trial(parents["llama"], number) for number in range(4)], []

    def steps(made: TorchEngine) -> tuple[int, list[Trialled]]:
        calls.clear()
        found = tried(jobs, made, stop=lambda: bool(calls.append(1)))
        return len(calls), found

    (few, expected), (many, found) = steps(engine()), steps(engine(max_rows=1))
    assert found == expected
    assert many > few + 8, "one row after the other takes more steps"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_batch_of_nothing_is_a_step(parents: dict[str, Checkpoint], architecture: str) -> None:
    empty = trial(parents[architecture], 2, batches=[[0], [], [1]])
    found = tried([trial(parents[architecture], 1), empty, trial(parents[architecture], 3, batches=[[]])])
    assert found[1].tuned.losses[1] == found[1].tuned.grad_norms[1] == 0.0 and len(found[1].tuned.losses) == 3
    assert found[2].tuned.losses == (0.0,) and found[2].error is None


def test_stop_is_answered_between_steps(parents: dict[str, Checkpoint]) -> None:
    long = trial(parents["llama"], 1, batches=[[0]] * 1000)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 20

    with pytest.raises(Stopped):
        tried([long], stop=stop)


class Tight(torch.nn.Module):
    """Memory suffices for so many tokens at once."""

    def __init__(self, inner: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.inner, self.tokens = inner, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[:-1].numel() > self.tokens:
            raise RuntimeError("std::bad_alloc")
        return self.inner(x)


def test_where_memory_does_not_suffice_fewer_are_run_at_once_with_the_same_results(
    parents: dict[str, Checkpoint],
) -> None:
    model = loaded(parents["gpt_neox"])
    jobs, heard = [trial(parents["gpt_neox"], 3 * number) for number in range(5)], Heard()
    expected, first = on_any_model(model, jobs), model.gpt_neox.layers[1].mlp
    assert on_any_model(model, jobs, free=1) == expected, "one adapter after the other"
    model.gpt_neox.layers[1].mlp = Tight(first, 150)  # an adapter's two texts at least
    assert on_any_model(model, jobs, notice=heard) == expected
    assert {event for event, _ in heard} == {"out of memory"} and heard[0][1]["during"] == "adapters in training"
    model.gpt_neox.layers[1].mlp = Tight(first, 24)
    with pytest.raises(OutOfMemory, match=r"one row of adapters in training.*bad_alloc\n.*Lower"):
        on_any_model(model, jobs, notice=heard)


def test_bfloat16_products_come_close(parents: dict[str, Checkpoint]) -> None:
    jobs = [trial(parents["llama"], number) for number in range(3)]
    for exact, rough in zip(tried(jobs), tried(jobs, engine(autocast=True)), strict=True):
        assert exact.tuned.losses != rough.tuned.losses
        assert np.allclose(exact.tuned.losses, rough.tuned.losses, rtol=0.03)


# ---------------------------------------------------------------- on workers


def test_batches_hold_every_job_once_and_are_named_and_halved_as_samples_are(parents: dict[str, Checkpoint]) -> None:
    jobs = [trial(parents["gpt_neox"], number) for number in range(11)]
    batches = _trials.plan(jobs, range(11), workers=2)
    assert len(batches) >= 4 and sorted(p.request for parts in batches for p in parts) == [*range(11)]
    first, rest = _pool._halves(batches[0])
    assert [*first, *rest] == batches[0] and len(first) == len(rest) == 1
    lost = [_pool._named(_pool.Work(parts), jobs) for parts in (batches[0], first)]
    facts = _pool._renumbered(_pool.Work(batches[0]), {"job": 1, "step": 7})
    assert facts == {"job": batches[0][1].request, "step": 7}, "a notice names the job of the whole call"
    assert lost == ["tried 2 adapters, the first of 7 steps", "tried 1 adapter of 7 steps"]


@pytest.fixture(scope="module")
def spread(parents: dict[str, Checkpoint]) -> tuple[list[TrialJob], list[Trialled]]:
    two = parents["gpt_neox"], parents["llama"]
    jobs = [trial(two[n % 2], n, batches=() if n % 6 == 5 else [[0, 1]] * 4) for n in range(2 * _trials.MIN_JOBS)]
    return jobs, tried(jobs)


@linux
def test_workers_give_what_one_process_gives_even_if_they_are_killed(
    spread: tuple[list[TrialJob], list[Trialled]], tmp_path: Path
) -> None:
    jobs, expected = spread
    jobs = [replace(jobs[0], keep=tmp_path), *jobs[1:]]
    done: list[int] = []

    def kill(count: int, total: int, unit: str) -> None:
        done.append(count)
        if len(done) == 1:  # the first batch is there, and others have begun
            for worker in pids():
                os.kill(worker, signal.SIGKILL)

    with workers(2, autocast=False) as made:
        assert tried(jobs, made, progress=kill) == expected
        assert set(made.notice.events) == {"worker died"}  # type: ignore[attr-defined]
        assert made.open(str(tmp_path)).adapter, "a worker writes what is kept"
        assert done == [*range(1, 17)]
        with pytest.raises(Stopped):
            tried(jobs[1:], made, stop=lambda: True)
