"""Many LoRA adapters (Hu et al. 2021) of one shape on one frozen model: a row each of a flat table.

Making, stepping and throwing away an adapter is indexing. Each row has its own data, rate and clock; it begins as PEFT
begins one from the job's seed, and its step is ``_tune``'s: clipped, then AdamW. No row's bits depend on the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.adamw import adamw
from transformers.pytorch_utils import Conv1D

from selftaught.engines._folders import ADAPTER_WEIGHTS, name_base
from selftaught.engines._joined import joined, key
from selftaught.engines._tune import MAX_REFUSED, learning_rate
from selftaught.engines.base import Notice, Tuned, TuneJob, unheard
from selftaught.errors import ModelError
from selftaught.types import Example

BETAS, EPS = (0.9, 0.98), 1e-8  # as in _tune


@dataclass(frozen=True)
class Site:
    """A linear layer that has an adapter: y += alpha / rank * B A x, with A [rank, inputs] and B [outputs, rank]."""

    name: str
    inputs: int
    outputs: int
    turned: bool = False  # its weight is [inputs, outputs], as in GPT-2


def sites(model: Any, targets: Sequence[str] = ()) -> list[Site]:
    """The linear layers called ``targets``, in the model's order, as PEFT finds them; of no targets all but the head.

    Raises ModelError where a target is the name of none.
    """
    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head}
    for target in targets:
        if not any(_called(name, target) for name in linear):
            known = sorted({n.rpartition(".")[2] for n in linear})
            raise ModelError(
                f"The model has no linear layer called {target!r} beside its head.", hint=f"It has {', '.join(known)}."
            )
    return [
        Site(name, m.nx, m.nf, turned=True) if isinstance(m, Conv1D) else Site(name, m.in_features, m.out_features)
        for name, m in linear.items()
        if not targets or any(_called(name, target) for target in targets)
    ]


def alike(jobs: Sequence[TuneJob]) -> list[list[int]]:
    """Indices of jobs whose adapters are of one rank and layers, the longest first, after those without batches."""
    order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].batches))
    idle = [i for i in order if not jobs[i].batches]  # go with any
    kinds: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for i in order[: len(order) - len(idle)]:
        kinds.setdefault((jobs[i].lora_rank, jobs[i].lora_targets), []).append(i)
    first, *others = kinds.values() or [[]]
    return [some for some in ([*idle, *first], *others) if some]


def numbered(notice: Notice, numbers: Sequence[int]) -> Notice:
    """``notice`` that hears of job k as ``numbers[k]``."""

    def told(event: str, **facts: str | int | float) -> None:
        notice(event, **(facts | ({"job": numbers[int(facts["job"])]} if "job" in facts else {})))

    return told


def _called(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


class Course:
    """How far one job is. ``step`` counts the refused ones as well; ``error`` says why it ended before its plan did."""

    def __init__(self, number: int, job: TuneJob) -> None:
        self.number, self.job = number, job
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.tokens = self.refused = 0
        self.error: str | None = None

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def left(self) -> int:
        """Steps to come."""
        return 0 if self.error else len(self.job.batches) - self.step

    @property
    def rate(self) -> float:
        return learning_rate(self.step, len(self.job.batches), self.job)

    def batch(self) -> list[Example]:
        """The examples of the step to come."""
        return [self.job.examples[i] for i in self.job.batches[self.step]]

    def tuned(self) -> Tuned:
        return Tuned(tuple(self.losses), self.tokens, tuple(self.norms))


class Adapters:
    """A row each for the first ``rows`` of ``jobs``, which are of one rank and layers; the others wait for a free one.

    ``values`` [K, P] float32: every A, then every B, in the order of ``sites``, so that the A's of neighbours with one
    input are one matrix. The adapter of a job without batches is zero.
    """

    def __init__(self, sites: Sequence[Site], jobs: Sequence[TuneJob], device: Any, rows: int | None = None) -> None:
        self.sites, self.jobs = list(sites), jobs
        self.rank = next((job.lora_rank for job in jobs if job.batches), 1)
        self.waiting, self.courses = deque(range(len(jobs))), dict[int, Course]()
        count = min(rows or len(jobs), len(jobs))
        sizes = [self.rank * s.inputs for s in sites] + [self.rank * s.outputs for s in sites]
        self.offsets = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self.values = torch.zeros(count, self.offsets[-1], device=device)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps, self.scales = torch.zeros(count, device=device), torch.zeros(count, device=device)
        for row in range(count):
            self.begin(row)

    def begin(self, row: int) -> bool:
        """The next of the jobs that wait takes ``row``; False where none does."""
        if not self.waiting:
            return False
        number = self.waiting.popleft()
        job = self.jobs[number]
        self.courses[row] = Course(number, job)
        for tensor in (self.values, self.first, self.second, self.steps):
            tensor[row] = 0.0
        self.scales[row] = job.lora_alpha / self.rank
        if job.batches:
            self._draw(row, job.seed)
        return True

    def _draw(self, row: int, seed: int) -> None:
        """A as PEFT draws it, B zero. PEFT makes two linear layers, which draw for themselves, and then A again."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        for site, (a, _) in zip(self.sites, self.split(self.values[row : row + 1]), strict=True):
            drawn = torch.empty(self.rank, site.inputs)
            for other in (drawn, torch.empty(site.outputs, self.rank), drawn):
                torch.nn.init.kaiming_uniform_(other, a=math.sqrt(5), generator=generator)
            a[0].copy_(drawn)

    def take(self, rows: Sequence[int]) -> torch.Tensor:
        """Copies of ``rows``, [len(rows), P]."""
        return self.values[torch.tensor(rows, device=self.values.device)]

    def split(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(A [G, rank, inputs], B [G, outputs, rank]) of each site: views of ``flat`` [G, P]."""
        n, at = len(self.sites), self.offsets
        return [
            (
                flat[:, at[i] : at[i + 1]].view(-1, self.rank, site.inputs),
                flat[:, at[n + i] : at[n + i + 1]].view(-1, site.outputs, self.rank),
            )
            for i, site in enumerate(self.sites)
        ]

    # ------------------------------------------------------------ steps

    def advance(
        self, rows: Sequence[int], gradients: Sequence[torch.Tensor], losses: Sequence[float], notice: Notice = unheard
    ) -> None:
        """One step of each of ``rows`` by its gradient [P], which is used up, after its mean loss.

        A step whose loss or norm is NaN or infinite is not taken; after ``MAX_REFUSED`` of those the row has an error.
        """
        norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).tolist()
        for row, gradient, loss, norm in zip(rows, gradients, losses, norms, strict=True):
            course = self.courses[row]
            rate = course.rate
            course.tokens += sum(len(e.completion_ids) for e in course.batch())
            course.losses.append(loss)
            course.norms.append(norm)
            if math.isfinite(loss) and math.isfinite(norm):
                self._step(row, gradient, norm, rate)
            else:
                self._refuse(course, notice)
            if not course.left and not course.error and not bool(torch.isfinite(self.values[row]).all()):
                course.error = "Training left the numbers: after it, weights are NaN or infinite."

    def _step(self, row: int, gradient: torch.Tensor, norm: float, rate: float) -> None:
        job = self.courses[row].job
        gradient.mul_(min(1.0, job.clip / (norm + 1e-6)))
        adamw(
            [self.values[row]], [gradient], [self.first[row]], [self.second[row]], [], [self.steps[row]],
            fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=rate, weight_decay=job.weight_decay,
            eps=EPS, maximize=False,
        )  # fmt: skip

    def _refuse(self, course: Course, notice: Notice) -> None:
        step, loss, norm = course.step - 1, course.losses[-1], course.norms[-1]
        if course.refused == MAX_REFUSED:
            course.error = (
                f"Training left the numbers: step {step} has loss {loss} and gradient norm {norm}, after "
                f"{course.refused} refused steps."
            )
            return
        course.refused += 1
        notice("step refused", job=course.number, step=step, loss=str(loss), norm=str(norm), refused=course.refused)

    # ------------------------------------------------------------ export

    def export(self, row: int, folder: Path) -> None:
        """Write a row into the empty ``folder`` in PEFT's format; one with the parent's adapter, if it has one."""
        from peft import LoraConfig
        from safetensors.torch import save_file

        job = self.courses[row].job
        base = Path(job.parent.model)
        split = self.split(self.values[row : row + 1].cpu())
        pairs = {site.name: (a[0], b[0]) for site, (a, b) in zip(self.sites, split, strict=True)}
        rank, alpha, targets = (
            self.rank,
            job.lora_alpha,
            [*job.lora_targets] or {_short(site.name) for site in self.sites},
        )
        if job.parent.adapter:
            pairs = joined(pairs, alpha / rank, Path(job.parent.adapter))
            rank = alpha = len(next(iter(pairs.values()))[0])
            targets = [*pairs]
        save_file({key(n, k): t.contiguous() for n, pair in pairs.items() for k, t in zip("AB", pair, strict=True)},
                  folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})  # fmt: skip
        config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", inference_mode=True)
        config.target_modules = sorted(targets)
        config.base_model_name_or_path = str(base)
        config.fan_in_fan_out = any(site.turned for site in self.sites)
        config.save_pretrained(folder)
        name_base(folder, base)


def table(model: Any, jobs: Sequence[TuneJob], free: int, most: int) -> Adapters:
    """Adapters of ``jobs``, which are alike: ``most`` rows, if ``free`` bytes suffice."""
    where = next((sites(model, job.lora_targets) for job in jobs if job.batches), [])
    each = 16 * max(job.lora_rank for job in jobs) * sum(s.inputs + s.outputs for s in where)  # with gradient, moments
    return Adapters(where, jobs, model.device, max(1, min(most, free // max(1, each))))


def _short(name: str) -> str:
    """The last part of a layer's name, unless that is a number."""
    last = name.rpartition(".")[2]
    return name if last.isdigit() else last
