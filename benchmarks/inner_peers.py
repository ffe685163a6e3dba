"""Who takes part in benchmarks/inner.py: our engine, and the ways to do the same with PEFT and transformers.

A trainer takes jobs and gives the loss of every step of each. An asker takes a folder of adapters and a list of prompts
for each, and gives the greedy completions. Both are made with the folder of a model and a setting.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig, PrinterCallback, Trainer, TrainingArguments

from selftaught.engines.base import TrialJob, Trialled, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.types import Sampling

Losses = list[list[float]]
Ids = tuple[int, ...]
State = Mapping[str, torch.Tensor]
TARGETS = ("q_proj", "v_proj")  # what PEFT takes where the reference names none (research of its code: Qwen2's default)
BETAS = (0.9, 0.98)  # of AdamW, as the engine has them
PADDED = 2048  # tokens that the reference pads every sequence to
SHORT = (0, 1)  # a sequence that costs nothing


@dataclass(frozen=True)
class Setting:
    weights: str = "float32"
    autocast: bool = False  # to bfloat16
    attention: str = "sdpa"
    fused: bool = True  # AdamW

    def __str__(self) -> str:
        products = ", bf16 autocast" if self.autocast else ""
        return f"{self.weights}{products}, {self.attention}" + ("" if self.fused else ", AdamW not fused")

    def model(self, folder: Path) -> Any:
        dtype = getattr(torch, self.weights)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=self.attention)
        model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        return model

    def products(self) -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.autocast else nullcontext()


WAYS = (("float32", False), ("float32", True), ("bfloat16", False))
PLAIN = tuple(Setting(w, a, at) for (w, a), at in product(WAYS, ("sdpa", "eager")))
UNFUSED = tuple(replace(s, fused=False) for s in PLAIN)


# ---------------------------------------------------------------- ours


class Ours:
    """Jobs by ``trials`` of the engine, one process, one thread. ``exact``: float32 throughout."""

    def __init__(self, model: str | Path, exact: bool, **options: Any) -> None:
        given = {"device": "cpu", "processes": 1, "threads": 1, "autocast": False if exact else "auto", **options}
        self.engine = TorchEngine(TorchEngine.Options.model_validate(given))
        self.checkpoint = self.engine.open(str(model))

    def try_all(self, trials: Sequence[TrialJob]) -> list[Trialled]:
        found = dict(self.engine.trials(trials))
        results = [found[i] for i in range(len(trials))]
        wrong = [(i, r.error) for i, r in enumerate(results) if r.error]
        assert not wrong, f"trials without a result: {wrong}"
        return results

    def train(self, jobs: Sequence[TuneJob]) -> Losses:
        return [list(r.tuned.losses) for r in self.try_all([bare(job) for job in jobs])]

    def kept(self, jobs: Sequence[TuneJob], folder: Path) -> list[Path]:
        """Train, and leave the adapters in ``folder``."""
        return self.kept_of([bare(job) for job in jobs], folder)[0]

    def kept_of(self, trials: Sequence[TrialJob], folder: Path) -> tuple[list[Path], list[Trialled]]:
        places = [folder / f"{i:03}" for i in range(len(trials))]
        for place in places:
            place.mkdir(parents=True)
        return places, self.try_all([replace(t, keep=p) for t, p in zip(trials, places, strict=True)])

    def starts(self, jobs: Sequence[TuneJob]) -> list[State]:
        """The adapters that jobs begin with: what is left after one step at a rate of nothing."""
        still = [replace(job, lr=0.0, batches=job.batches[:1]) for job in jobs]
        with tempfile.TemporaryDirectory() as folder:
            return [adapter(place) for place in self.kept(still, Path(folder))]

    def ask(self, jobs: Sequence[TuneJob], prompts: Sequence[Sequence[Ids]], new: int) -> list[list[Ids]]:
        """Train and ask, since that is what the engine does; the jobs are there to be short."""
        asked = [TrialJob(job, list(p), Sampling(1, 0.0, max_tokens=new), [0] * len(p))
                 for job, p in zip(jobs, prompts, strict=True)]  # fmt: skip
        return [[c.ids for c in r.completions] for r in self.try_all(asked)]


def bare(job: TuneJob) -> TrialJob:
    return TrialJob(job, (), Sampling(1, 0.0, max_tokens=1), ())


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


# ---------------------------------------------------------------- training


class Loop:
    """One PEFT model in one process; its adapter begins anew for every job. Rows of one step have one length."""

    def __init__(self, folder: Path, setting: Setting, rank: int) -> None:
        self.setting = setting
        self.model = get_peft_model(setting.model(folder), lora(rank)).train()
        self.learned = [p for p in self.model.parameters() if p.requires_grad]
        self.fresh = {k: v.clone() for k, v in get_peft_model_state_dict(self.model).items()}

    def train(self, jobs: Sequence[TuneJob]) -> Losses:
        return [self.one(job) for job in jobs]

    def one(self, job: TuneJob, start: State | None = None) -> list[float]:
        set_peft_model_state_dict(self.model, dict(start or self.fresh))
        optimizer = torch.optim.AdamW(
            self.learned, lr=job.lr, betas=BETAS, weight_decay=job.weight_decay, fused=self.setting.fused
        )
        losses = []
        for batch in job.batches:
            ids = torch.tensor([tokens(job, i) for i in batch])
            with self.setting.products():
                loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learned, job.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
        return losses

    def state(self) -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in get_peft_model_state_dict(self.model).items()}


class Trainers:
    """A ``Trainer`` and a new adapter per job, with ``pad`` every sequence that long and pads in the loss."""

    def __init__(self, folder: Path, setting: Setting, rank: int, pad: int = 0) -> None:
        self.setting, self.rank, self.pad = setting, rank, pad
        self.base = setting.model(folder)
        self.scratch = tempfile.TemporaryDirectory()

    def train(self, jobs: Sequence[TuneJob]) -> Losses:
        return [self.one(job) for job in jobs]

    def one(self, job: TuneJob) -> list[float]:
        schedule = "linear" if self.pad else "constant"
        told = TrainingArguments(
            output_dir=self.scratch.name, per_device_train_batch_size=len(job.batches[0]), max_steps=len(job.batches),
            learning_rate=job.lr, lr_scheduler_type=schedule, max_grad_norm=job.clip, bf16=self.setting.autocast,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        model = get_peft_model(self.base, lora(self.rank))
        rows = [self.row(tokens(job, i)) for i in range(len(job.examples))]
        trainer = Trainer(model=model, args=told, train_dataset=rows, data_collator=stack)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        self.base = model.unload()
        return []

    def row(self, ids: Ids) -> dict[str, list[int]]:
        missing = max(0, self.pad - len(ids))
        row = [*ids, *[0] * missing]
        return {"input_ids": row, "labels": row, "attention_mask": [1] * len(ids) + [0] * missing}


def stack(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=[*TARGETS], task_type="CAUSAL_LM")


def tokens(job: TuneJob, index: int) -> Ids:
    return job.examples[index].prompt_ids + job.examples[index].completion_ids


# ---------------------------------------------------------------- asking


class Asked:
    """One PEFT model with all adapters in memory, loaded before the clock runs."""

    def __init__(self, folder: Path, setting: Setting, adapters: Sequence[Path]) -> None:
        self.setting = setting
        self.names = [f"a{i}" for i in range(len(adapters))]
        self.model = PeftModel.from_pretrained(setting.model(folder), adapters[0], adapter_name=self.names[0]).eval()
        for name, place in zip(self.names[1:], adapters[1:], strict=True):
            self.model.load_adapter(place, adapter_name=name)

    def in_turn(self, prompts: Sequence[Sequence[Ids]], new: int) -> list[list[Ids]]:
        """``set_adapter`` and ``generate``, one after the other."""
        found = []
        for name, asked in zip(self.names, prompts, strict=False):
            self.model.set_adapter(name)
            found.append(self.answers(asked, new))
        return found

    def mixed(self, prompts: Sequence[Sequence[Ids]], new: int) -> list[list[Ids]]:
        """One batch, in which every row names its adapter."""
        rows = [(name, p) for name, asked in zip(self.names, prompts, strict=False) for p in asked]
        found = iter(self.answers([p for _, p in rows], new, adapter_names=[name for name, _ in rows]))
        return [[next(found) for _ in asked] for asked in prompts]

    def merged(self, prompts: Sequence[Sequence[Ids]], new: int) -> list[list[Ids]]:
        """Each adapter added to the weights, asked, and taken off again."""
        found = []
        for name, asked in zip(self.names, prompts, strict=False):
            self.model.merge_adapter([name])
            found.append(self.answers(asked, new))
            self.model.unmerge_adapter()
        return found

    @torch.no_grad()
    def answers(self, prompts: Sequence[Ids], new: int, **how: Any) -> list[Ids]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])  # on the left, as generate wants it
        there = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        with self.setting.products():
            found = self.model.generate(input_ids=ids, attention_mask=there, max_new_tokens=new, **how)
        return [tuple(row) for row in found[:, ids.shape[1] :].tolist()]


# ---------------------------------------------------------------- by name

LOOP, TRAINER, REFERENCE = "PEFT loop", "HF Trainer", "padded to 2,048"
IN_TURN, MIXED, MERGED = "PEFT in turn", "PEFT mixed batch", "PEFT merged"
OURS, EXACT = "selftaught", "selftaught, exact"

TRAINERS: dict[str, tuple[tuple[Setting, ...], Callable[[Path, Setting, int], Any]]] = {
    LOOP: (PLAIN + UNFUSED, Loop),
    TRAINER: (PLAIN, Trainers),
    REFERENCE: (PLAIN, lambda folder, setting, rank: Trainers(folder, setting, rank, PADDED)),
}
ASKERS: dict[str, Callable[[Asked, Sequence[Sequence[Ids]], int], list[list[Ids]]]] = {
    IN_TURN: Asked.in_turn,
    MIXED: Asked.mixed,
    MERGED: Asked.merged,
}
