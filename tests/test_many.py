"""Many adapters at once: what PEFT gives one by one, and the same bits whoever is beside."""

from __future__ import annotations

import copy
import dataclasses
import gc
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from selftaught.config import PromptConfig
from selftaught.engines import _many, _steps, _tune
from selftaught.engines._adapters import Adapters, sites
from selftaught.engines._batches import Part
from selftaught.engines._lean import lean
from selftaught.engines._load import load_tokens
from selftaught.engines._packed import Cell, Frozen, Packed
from selftaught.engines._sample import decoder, sample_batch
from selftaught.engines.base import Notice, Request, TrialJob, Trialled, TuneJob, never, unheard
from selftaught.errors import ModelError, OutOfMemory, Stopped
from selftaught.types import Checkpoint, Example, Guide, Sampling

ALL, QV = (), ("q_proj", "v_proj")
FLOAT, HALF = torch.float32, torch.bfloat16
LENGTHS = ((5, 60), (5, 60), (150, 400), (10, 20))  # of completions, of jobs in turn,
BATCHES = (1, 4, 1, 2)  # and examples per step


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"), context=512)


def made(kind: str, seed: int = 0) -> Any:
    """A random model whose every weight matters: norms and biases too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 260}
    shape |= {"head_dim": 16} if kind == "qwen3" else {}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    return made("llama")


def job(number: int, targets: tuple[str, ...] = QV, **changes: Any) -> TuneJob:
    """Job ``number``: lengths, weights, order and count of its steps are its own."""
    draw = random.Random(number)
    some = [
        Example(ids(draw, 1, 6), ids(draw, *LENGTHS[number % 4]), str(i), weight=draw.choice((1.0, 1.0, 0.5, -0.2)))
        for i in range(5)
    ]
    batches = [[draw.randrange(5) for _ in range(BATCHES[number % 4])] for _ in range(2 + number % 3)]
    found = TuneJob(Checkpoint("d", "base"), some, batches, "lora", 1e-3, 2, 0.1, 1.0, 0.01, 4, 8, 77 + number, targets)
    return dataclasses.replace(found, **changes)


def ids(draw: random.Random, least: int, most: int) -> tuple[int, ...]:
    return tuple(draw.randrange(4, 259) for _ in range(draw.randint(least, most)))


def wrapped(model: Any, one: TuneJob) -> Any:
    """The adapter of a job as PEFT begins it, on a copy of the model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(one.seed)
    targets = list(one.lora_targets) or "all-linear"
    return get_peft_model(
        copy.deepcopy(model),
        LoraConfig(r=one.lora_rank, lora_alpha=one.lora_alpha, target_modules=targets, task_type="CAUSAL_LM"),
    )


def by_peft(model: Any, one: TuneJob) -> tuple[Any, list[float], list[float]]:
    """(The trained PEFT model, losses, gradient norms) of a plain loop over one job."""
    peft = wrapped(model, one).train()
    learned = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=one.lr, betas=(0.9, 0.98), weight_decay=one.weight_decay)
    losses, norms = [], []
    for step, batch in enumerate(one.batches):
        for group in optimizer.param_groups:
            group["lr"] = _tune.learning_rate(step, len(one.batches), one)
        losses.append(_tune._backward(peft, [one.examples[i] for i in batch], autocast=False)[0])
        norms.append(float(torch.nn.utils.clip_grad_norm_(learned, one.clip)))
        optimizer.step()
        optimizer.zero_grad()
    return peft.eval(), losses, norms


def rows(peft: Any, adapters: Adapters) -> torch.Tensor:
    """PEFT's adapter as a row of the table, [1, P]."""
    found, named = torch.empty(1, adapters.values.shape[1]), dict(peft.named_parameters())
    for site, pair in zip(adapters.sites, adapters.split(found), strict=True):
        for kind, tensor in zip("AB", pair, strict=True):
            tensor[0] = named[f"base_model.model.{site.name}.lora_{kind}.default.weight"].detach()
    return found


def trained(model: Any, jobs: Sequence[TuneJob], dtype: torch.dtype = FLOAT, notice: Notice = unheard) -> Adapters:
    own = lean(model)
    assert own is not None
    table = Adapters(sites(model, jobs[0].lora_targets), jobs, "cpu")
    finished = [k for some in _steps.train(Packed(Frozen(own, dtype), table), stop=never, notice=notice) for k in some]
    assert sorted(finished) == list(range(len(jobs))), "every row ends once"
    return table


# ---------------------------------------------------------------- against PEFT


@pytest.mark.parametrize("targets", [ALL, QV, ("o_proj", "down_proj")])
def test_an_adapter_begins_as_peft_begins_it(llama: Any, targets: tuple[str, ...]) -> None:
    one = job(3, targets)
    table = Adapters(sites(llama, targets), [job(1, targets), one], "cpu")
    peft = wrapped(llama, one)
    assert torch.equal(rows(peft, table)[0], table.values[1])
    learned = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert learned == table.values.shape[1], "PEFT adapts these layers and no others"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("targets", [ALL, QV, ("gate_proj", "o_proj")])
def test_in_float32_training_is_that_of_peft_and_adamw(kind: str, targets: tuple[str, ...]) -> None:
    model, jobs = made(kind), [job(i, targets) for i in range(4)]
    table, half = trained(model, jobs), trained(model, jobs, HALF)
    for k, one in enumerate(jobs):
        peft, losses, norms = by_peft(model, one)
        tuned = table.courses[k].tuned()
        assert tuned.losses == pytest.approx(losses, abs=1e-5)
        assert tuned.grad_norms == pytest.approx(norms, rel=1e-4)
        assert tuned.tokens == sum(len(one.examples[i].completion_ids) for batch in one.batches for i in batch)
        assert (rows(peft, table)[0] - table.values[k]).abs().max() < 1e-5
        assert half.courses[k].losses[-1] == pytest.approx(losses[-1], abs=0.02), "bfloat16 learns the same"


def test_what_is_kept_is_an_adapter_for_peft(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for targets in (ALL, QV):
        one = job(1, targets, parent=Checkpoint("d", str(folder)), lr=0.05)
        table = trained(model, [one])
        out = tmp_path / f"adapter{len(targets)}"
        out.mkdir()
        table.export(0, out)
        assert {p.name for p in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(out)).eval()
        assert torch.equal(rows(loaded, table)[0], table.values[0])
        expected = by_peft(model, one)[0](torch.arange(5, 25)[None]).logits
        assert torch.allclose(loaded(torch.arange(5, 25)[None]).logits, expected, atol=1e-3)


def trial(number: int, **changes: Any) -> TrialJob:
    draw = random.Random(1000 + number)
    prompts = [ids(draw, 3, 70) for _ in range(1 + number % 5)]
    one = job(number, (ALL, QV)[number % 2], **changes)
    if number % 7 == 3:
        one = dataclasses.replace(one, batches=[])
    sampling = Sampling(temperature=(0.0, 0.7)[number % 2], max_tokens=12, min_tokens=number % 3)
    golds = [ids(draw, 1, 20) for _ in prompts]
    return TrialJob(one, prompts, sampling, [draw.randrange(2**63) for _ in prompts], golds)


def ran(model: Any, folder: Path, trials: Sequence[TrialJob], bf16: bool = False, **by: Any) -> dict[int, Trialled]:
    tokens = load_tokens(str(folder), PromptConfig())
    by = {"stop": never, "notice": unheard, "slots": 256, "free": 1 << 28} | by
    found = dict(sorted(_many.run(model, tokens, trials, bf16=bf16, **by), key=lambda item: item[0]))
    assert sorted(found) == list(range(len(trials)))
    return found


def test_answers_and_golds_are_those_of_peft(llama: Any, folder: Path) -> None:
    trials = [trial(0), trial(2), trial(10)]
    greedy = [dataclasses.replace(t, sampling=Sampling(max_tokens=12)) for t in trials]
    for k, found in ran(llama, folder, greedy).items():
        peft = by_peft(llama, trials[k].job)[0] if trials[k].job.batches else llama
        for prompt, gold, answer, logprobs in zip(
            trials[k].prompts, trials[k].golds, found.completions, found.logprobs, strict=True
        ):
            with torch.no_grad():
                expected = peft.generate(
                    input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0,
                )[0, len(prompt) :]  # fmt: skip
                told = torch.log_softmax(peft(torch.tensor([prompt + gold])).logits[0, len(prompt) - 1 : -1], -1)
            assert list(answer.ids) == expected.tolist()
            assert logprobs == pytest.approx(told.gather(1, torch.tensor(gold)[:, None])[:, 0].tolist(), abs=1e-5)


def test_without_steps_it_is_the_parent_that_answers(llama: Any, folder: Path) -> None:
    asked = [trial(3), trial(17)]
    tokens = load_tokens(str(folder), PromptConfig())
    for k, found in ran(llama, folder, asked).items():
        t = asked[k]
        assert not t.job.batches and found.tuned.losses == ()
        requests = [Request(t.job.parent, p, t.sampling, (s,)) for p, s in zip(t.prompts, t.seeds, strict=True)]
        parts = [Part(i, 0, 1) for i in range(len(requests))]
        plain = {part.request: c for part, (c,) in sample_batch(llama, tokens, requests, parts, 8)}
        assert [c.ids for c in found.completions] == [plain[i].ids for i in range(len(requests))]


# ---------------------------------------------------------------- whoever is beside


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
def test_an_adapter_is_the_same_alone_and_among_any_others(llama: Any, dtype: torch.dtype) -> None:
    jobs = [job(i) for i in range(64)]
    every = trained(llama, jobs, dtype)
    for probe in (0, 1, 2, 3, 35, 63):
        alone = trained(llama, [jobs[probe]], dtype)
        others = random.Random(probe).sample([i for i in range(64) if i != probe], 11)
        among = [*others[: probe % 11], probe, *others[probe % 11 :]]
        two, twelve = (
            trained(llama, [jobs[probe - 1], jobs[probe]], dtype),
            trained(llama, [jobs[i] for i in among], dtype),
        )
        for table, row in ((two, 1), (twelve, among.index(probe)), (every, probe)):
            assert torch.equal(table.values[row], alone.values[0])
            assert table.courses[row].tuned() == alone.courses[0].tuned()


@pytest.mark.parametrize("bf16", [False, True])
def test_what_an_adapter_says_is_the_same_alone_and_among_any_others(llama: Any, folder: Path, bf16: bool) -> None:
    trials = [trial(i) for i in range(24)]
    every = ran(llama, folder, trials, bf16)
    assert all(found.error is None for found in every.values())
    for probe in (0, 1, 3, 4, 23):
        alone = ran(llama, folder, [trials[probe]], bf16)[0]
        assert alone == every[probe]
        assert ran(llama, folder, [trials[probe - 1], trials[probe]], bf16)[1] == alone


def test_some_end_early_and_are_what_they_are_when_all_begin_at_once(llama: Any) -> None:
    jobs = [job(i) for i in range(64)]
    own, every = lean(llama), trained(llama, jobs)
    assert own is not None
    table = Adapters(sites(llama, QV), jobs, "cpu", rows=12)
    done: dict[int, int] = {}  # steps that were taken in all when a job was handed out
    for ended in _steps.train(Packed(Frozen(own, FLOAT), table), stop=never, notice=unheard):
        under_way = sum(course.step for course in table.courses.values() if course.number not in done)
        taken = under_way + sum(len(jobs[i].batches) for i in done)
        for row in ended:
            course = table.courses[row]
            assert torch.equal(table.values[row], every.values[course.number])
            assert course.tuned() == every.courses[course.number].tuned()
            done[course.number] = taken
    assert sorted(done) == list(range(64)) and len(table.values) == 12
    total = sum(len(one.batches) for one in jobs)
    assert max(done.values()) == total
    assert sorted(done.values())[6] < total / 3, "a tenth of the jobs after no more than a third of the steps"


class Cramped(Packed):
    """A machine whose memory suffices for ``most`` tokens at once."""

    most = 0

    def gradients(self, cells: Sequence[Cell]) -> tuple[list[float], torch.Tensor]:
        if sum(cell.tokens for cell in cells) > self.most:
            raise MemoryError
        return super().gradients(cells)


def test_less_memory_is_no_other_result(llama: Any) -> None:
    jobs = [job(i) for i in (0, 1, 3, 4)]
    own, heard = lean(llama), []
    assert own is not None
    cramped = Cramped(Frozen(own, FLOAT), Adapters(sites(llama, QV), jobs, "cpu"))
    cramped.most = 256
    list(_steps.train(cramped, stop=never, notice=lambda event, **facts: heard.append(event)))
    assert torch.equal(cramped.adapters.values, trained(llama, jobs).values)
    assert "out of memory" in heard
    cramped = Cramped(Frozen(own, FLOAT), Adapters(sites(llama, QV), jobs, "cpu"))
    with pytest.raises(OutOfMemory, match=r"\d × \d+ tokens"):
        list(_steps.train(cramped, stop=never, notice=unheard))


# ---------------------------------------------------------------- what goes wrong


def test_an_adapter_that_leaves_the_numbers_costs_no_other(llama: Any, folder: Path) -> None:
    good = [trial(0), trial(1)]
    steps = [[0]] * 8
    wild = dataclasses.replace(trial(2), job=job(2, QV, lr=1e30, batches=steps, warmup_steps=0))
    heard: list[str] = []
    found = ran(llama, folder, [good[0], wild, good[1]], notice=lambda event, **facts: heard.append(event))
    assert found[1].error is not None and "left the numbers" in found[1].error
    assert not found[1].completions and len(found[1].tuned.losses) < len(steps), "it is given up on the way"
    assert heard.count("step refused") == _tune.MAX_REFUSED
    assert [found[0], found[2]] == [*ran(llama, folder, good).values()]


def test_an_adapter_whose_logits_are_no_numbers_costs_no_other(llama: Any, folder: Path) -> None:
    """Weights so large that they are finite and what they give is not."""
    wild = dataclasses.replace(trial(2), job=job(2, QV, lr=1e25, batches=[[0]], warmup_steps=0))
    found = ran(llama, folder, [trial(0), wild])
    assert found[1].error is not None and "logits" in found[1].error and not found[1].completions
    assert found[0] == ran(llama, folder, [trial(0)])[0]


def test_what_is_wrong_in_asking_is_not_taken_for_a_lost_adapter(llama: Any, folder: Path) -> None:
    endless = copy.deepcopy(llama)
    endless.generation_config.eos_token_id = None
    tokens = load_tokens(str(folder), PromptConfig())
    tokens.eos = None
    guided = dataclasses.replace(trial(1), sampling=Sampling(max_tokens=8, guide=Guide("regex", "[a-z]+")))
    with pytest.raises(ModelError, match="end"):
        list(_many.run(endless, tokens, [guided], bf16=False, slots=8, free=1 << 28, stop=never, notice=unheard))


def test_one_table_is_let_go_of_before_the_next_is_made(llama: Any, folder: Path) -> None:
    def tables() -> int:
        return sum(type(found) is Adapters for found in gc.get_objects())

    gc.collect()
    before, seen = tables(), set[int]()
    trials = [trial(i) for i in (0, 1, 2, 5)]  # two kinds
    tokens = load_tokens(str(folder), PromptConfig())
    for _ in _many.run(llama, tokens, trials, bf16=False, slots=8, free=1 << 28, stop=never, notice=unheard):
        seen.add(tables() - before)
    assert seen == {1}


def test_a_layer_that_is_not_there_is_named(llama: Any) -> None:
    with pytest.raises(ModelError, match="'w_proj'") as caught:
        sites(llama, ("q_proj", "w_proj"))
    assert "gate_proj" in str(caught.value.hint)


def test_a_step_of_nothing_is_a_step(llama: Any) -> None:
    table = trained(llama, [job(0, batches=[[0], [], [1]]), job(1)])
    assert table.courses[0].losses[1] == 0.0 and table.courses[0].norms[1] == 0.0
    assert len(table.courses[0].losses) == 3


def test_it_stops_when_asked(llama: Any, folder: Path) -> None:
    with pytest.raises(Stopped):
        ran(llama, folder, [trial(0)], stop=lambda: True)


def test_only_models_of_the_family_take_this_path(llama: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tiny.checkpoint(tmp_path, "gpt_neox")).eval()
    assert _many.fits(llama) and not _many.fits(other)
    assert decoder(llama).name == "torch"
