"""Many throw-away adapters of one model, trained and asked together: the fast path, for Llama-like models.

Every adapter goes on by its own clock: its steps, their order and their batches are those it has alone. A step is cut
into cells; a pack takes the next cells of as many adapters as fill it, those with most steps to come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from selftaught.engines._adapters import Adapters
from selftaught.engines._cache import padded
from selftaught.engines._packed import Cell, Packed
from selftaught.engines._tune import micro_batches
from selftaught.engines.base import Notice, StopToken
from selftaught.errors import Stopped
from selftaught.types import Example

TOKENS = {"cpu": 1024, "cuda": 4096}  # of a pack, padding included; a cell holds no more, but for one sequence


class _Row:
    """What is left to run of one adapter's next step, and its gradient so far."""

    def __init__(self, row: int) -> None:
        self.row = row
        self.cells: deque[Cell] = deque()
        self.loss = 0.0
        self.gradient: torch.Tensor | None = None

    def add(self, loss: float, gradient: torch.Tensor) -> None:
        self.loss += loss
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)


def cells(row: int, examples: Sequence[Example], tokens: int) -> list[Cell]:
    """A step as cells of sequences of like lengths."""
    total = sum(len(e.completion_ids) for e in examples)
    return [
        Cell(row, tuple(some), (rows, padded(width)), total) for some, (rows, width) in micro_batches(examples, tokens)
    ]


def train(packed: Packed, *, stop: StopToken, notice: Notice) -> Iterator[int]:
    """Run every job of the table to its end; rows as they finish, those of no steps first."""
    adapters, tokens = packed.adapters, TOKENS.get(packed.device.type, 1024)
    rows = {k: _Row(k) for k in range(len(adapters.courses))}
    while True:
        for k in [k for k in rows if not rows[k].cells and not adapters.courses[k].left]:
            del rows[k]
            yield k
        if not rows:
            return
        if stop():
            raise Stopped
        for k, row in rows.items():
            if not row.cells:
                row.cells.extend(cells(k, adapters.courses[k].batch(), tokens))
        chosen = _choose([*rows.values()], adapters, tokens)
        losses, gradients = packed.gradients(chosen)
        for cell, loss, gradient in zip(chosen, losses, gradients, strict=True):
            rows[cell.row].add(loss, gradient)
        ended = [rows[k] for k in dict.fromkeys(c.row for c in chosen) if not rows[k].cells]
        if ended:
            adapters.advance(
                [r.row for r in ended],
                [r.gradient for r in ended if r.gradient is not None],
                [r.loss for r in ended],
                notice,
            )
        for row in ended:
            rows[row.row] = _Row(row.row)


def _choose(rows: Sequence[_Row], adapters: Adapters, tokens: int) -> list[Cell]:
    """The next pack: cells taken from their rows' queues, those of one shape together."""
    order = sorted(rows, key=lambda r: (-adapters.courses[r.row].left, r.row))
    chosen: list[Cell] = []
    left = tokens
    while order and left > 0:
        shape = order[0].cells[0].shape
        rest: list[_Row] = []
        for row in order:
            while row.cells and row.cells[0].shape == shape and (row.cells[0].tokens <= left or not chosen):
                chosen.append(row.cells.popleft())
                left -= chosen[-1].tokens
            rest += [row] if row.cells and row.cells[0].shape != shape and row.cells[0].tokens <= left else []
        order = rest
    return chosen
