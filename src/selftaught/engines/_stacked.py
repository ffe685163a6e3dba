"""Many adapters on any causal language model of transformers, through its own forward.

A twin of the model shares its weights; in the twin, each adapted layer adds to its output the products of G stacked
adapters, one for each of G equal parts of the rows. Only micro-batches of equal padded shape share a forward, so what
an adapter computes does not depend on which others are there. Training is without dropout.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from selftaught.engines._adapters import Adapters, Site, alike, numbered, table
from selftaught.engines._ask import Asker, finite
from selftaught.engines._losses import LOSSES
from selftaught.engines._memory import Room, exhausted, first_line
from selftaught.engines._score import padded, positions
from selftaught.engines._steps import GROUPS
from selftaught.engines._tune import LESS, collate, micro_batches
from selftaught.engines.base import Notice, StopToken, TrialJob, Trialled
from selftaught.errors import NonFiniteLogits, Stopped
from selftaught.types import Example

TOGETHER = 8192  # padded tokens of several adapters that are run at once; fewer where memory does not suffice
ROWS = 64  # of a table of adapters
TRAINED = "adapters in training", LESS

Shape = tuple[int, int]


# ---------------------------------------------------------------- the twin


class _Adapted(torch.nn.Module):
    """Mixed into a linear layer's class: rows come in ``len(a)`` equal parts, each with its adapter."""

    a: torch.Tensor | None = None  # [G, rank, inputs]
    b: torch.Tensor  # [G, outputs, rank]
    scale: torch.Tensor  # [G, 1, 1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x)
        if self.a is None:
            return y
        parts = x.reshape(len(self.a), -1, x.shape[-1]).to(self.a.dtype)
        added = torch.bmm(torch.bmm(parts, self.a.mT), self.b.mT) * self.scale
        return y + added.view(y.shape).to(y.dtype)


class Twin:
    """A copy of ``model`` with its very weights, whose ``sites`` may have adapters."""

    def __init__(self, model: Any, sites: Sequence[Site]) -> None:
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared).requires_grad_(False).eval()
        self.layers = [self.model.get_submodule(site.name) for site in sites]
        for layer in self.layers:
            layer.__class__ = type("Adapted", (_Adapted, type(layer)), {})

    def wear(self, adapters: Adapters, rows: Sequence[int]) -> None:
        """From now on the twin's batch is in equal parts for the adapters ``rows``, as these are now."""
        scales = adapters.scales[torch.tensor(rows, device=adapters.scales.device)].view(-1, 1, 1)
        for layer, (a, b) in zip(self.layers, adapters.split(adapters.take(rows)), strict=True):
            layer.a, layer.b, layer.scale = a.requires_grad_(), b.requires_grad_(), scales

    @torch.inference_mode()
    def splits(self) -> bool:
        """Whether every adapted layer sees all rows as they stand in the batch; experts see those sent to them."""
        seen: list[Any] = []
        hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:-1])) for m in self.layers]
        self.model(input_ids=torch.zeros(3, 8, dtype=torch.long, device=self.model.device), use_cache=False)
        for hook in hooks:
            hook.remove()
        return len(seen) >= len(self.layers) and all(shape == (3, 8) for shape in seen)


# ---------------------------------------------------------------- training


class _Step:
    """One step of one adapter, a micro-batch at a time, cut by its own examples alone."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.parts = [(part, (rows, padded(width))) for part, (rows, width) in micro_batches(examples)]
        self.total = max(1, sum(len(e.completion_ids) for e in examples))
        self.loss = 0.0
        self.gradient: torch.Tensor | None = None

    @property
    def shape(self) -> Shape:
        return self.parts[0][1]

    def add(self, loss: float, gradient: torch.Tensor) -> None:
        self.parts = self.parts[1:]
        self.loss += loss
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)


def train(
    twin: Twin, adapters: Adapters, *, bf16: bool, most: int, room: Room, stop: StopToken, notice: Notice
) -> Iterator[list[int]]:
    """All jobs of the table, of which up to ``most`` share a forward. Yields rows that ended, some at once; when the
    next ones are asked for, jobs that wait take their places."""
    steps, ended = dict[int, _Step](), [*adapters.courses]
    _begin(adapters, steps, ended)
    while steps or ended:
        if len(ended) * GROUPS >= len(adapters.courses) or not steps:
            yield ended
            ended = [row for row in ended if adapters.begin(row)]
            _begin(adapters, steps, ended)
            continue
        if stop():
            raise Stopped
        if idle := [row for row, step in steps.items() if not step.parts]:  # a batch of nothing
            ended += _advance(adapters, steps, idle, notice)
            continue
        shape, _ = Counter(step.shape for step in steps.values()).most_common(1)[0]
        tokens = shape[0] * shape[1]
        rows = [row for row, step in steps.items() if step.shape == shape]
        rows = rows[: room.rows(min(most, max(1, TOGETHER // tokens)), tokens)]
        try:
            losses, gradients = _backward(twin, adapters, {row: steps[row] for row in rows}, bf16)
        except Exception as error:
            if not exhausted(error):
                raise
            said = first_line(error)
        else:
            for row, loss, gradient in zip(rows, losses, gradients, strict=True):
                steps[row].add(loss, gradient)
            ended += _advance(adapters, steps, [row for row in rows if not steps[row].parts], notice)
            continue
        room.halve(len(rows), tokens, said)  # out here, where nothing of the failed attempt lives on


def _begin(adapters: Adapters, steps: dict[int, _Step], rows: list[int]) -> None:
    """Begin the next steps of ``rows``, which keeps those that have none."""
    steps.update({row: _Step(adapters.courses[row].batch()) for row in rows if adapters.courses[row].left})
    rows[:] = [row for row in rows if not adapters.courses[row].left]


def _advance(adapters: Adapters, steps: dict[int, _Step], rows: list[int], notice: Notice) -> list[int]:
    """Take the steps of ``rows``, whose gradients are whole, and begin their next ones; the rows that have none."""
    done = [steps.pop(row) for row in rows]
    nothing = torch.zeros_like(adapters.values[0])
    gradients = [nothing.clone() if s.gradient is None else s.gradient for s in done]
    adapters.advance(rows, gradients, [s.loss for s in done], notice)
    _begin(adapters, steps, rows)
    return rows


def _backward(
    twin: Twin, adapters: Adapters, steps: dict[int, _Step], bf16: bool
) -> tuple[list[float], list[torch.Tensor]]:
    """(losses, gradients [P]) of the next micro-batch of each of ``steps``, which are of one shape."""
    rows, model = list(steps), twin.model
    parts = [step.parts[0] for step in steps.values()]
    ids, _, weights = (torch.cat(t) for t in zip(*(collate(p, model.device, shape) for p, shape in parts), strict=True))
    twin.wear(adapters, rows)
    with torch.autocast(model.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
        logits = model(input_ids=ids, use_cache=False, **positions(model, ids.shape[1])).logits
    each = [
        LOSSES[part[0].loss](some, mine, weight) / step.total
        for (part, _), step, some, mine, weight in zip(
            parts, steps.values(), *(t.chunk(len(rows)) for t in (logits, ids, weights)), strict=True
        )
    ]
    worn = [*(layer.a for layer in twin.layers), *(layer.b for layer in twin.layers)]
    found = torch.autograd.grad(each, worn, allow_unused=True, materialize_grads=True)
    return torch.stack(each).tolist(), [*torch.cat([g.flatten(1) for g in found], 1)]


# ---------------------------------------------------------------- trials


def run(
    model: Any,
    tokens: Any,
    jobs: Sequence[TrialJob],
    *,
    bf16: bool,
    slots: int,
    free: int,
    stop: StopToken,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """(index, result) of each of ``jobs`` as they finish, as in ``_many``; they are asked in the model's dtype."""
    room, asker = Room(*TRAINED, notice), Asker(tokens, slots=slots, free=free, notice=notice)
    for some in alike([t.job for t in jobs]):
        yield from _table(model, asker, jobs, some, bf16, free, room, stop, numbered(notice, some))


def _table(
    model: Any,
    asker: Asker,
    jobs: Sequence[TrialJob],
    some: Sequence[int],
    bf16: bool,
    free: int,
    room: Room,
    stop: StopToken,
    notice: Notice,
) -> Iterator[tuple[int, Trialled]]:
    """Those ``some`` of the jobs that are of one rank and layers. What they need is let go of at the end."""
    rows = table(model, [jobs[i].job for i in some], free, ROWS)
    twin = Twin(model, rows.sites)
    most = len(rows.courses) if twin.splits() else 1
    for ended in train(twin, rows, bf16=bf16, most=most, room=room, stop=stop, notice=notice):
        for row in ended:
            index = some[rows.courses[row].number]
            yield index, _result(twin, rows, row, jobs[index], asker, stop)


def _result(twin: Twin, adapters: Adapters, row: int, trial: TrialJob, asker: Asker, stop: StopToken) -> Trialled:
    course = adapters.courses[row]
    if course.error:
        return Trialled(course.tuned(), error=course.error)
    twin.wear(adapters, [row])
    try:
        [found] = asker.ask(twin.model, [trial], stop=stop)
    except NonFiniteLogits as error:
        return Trialled(course.tuned(), error=first_line(error))
    if not finite(found):
        return Trialled(course.tuned(), error="After training, log-probabilities are NaN or infinite.")
    if trial.keep is not None:
        adapters.export(row, trial.keep)
    return Trialled(course.tuned(), *found)
