"""Training many adapters at once, each by its own clock: its steps, their order and their batches are its own.

A step is cut into cells. A pack takes the next cells of as many adapters as fill it: first of the one that began first
(with no more to begin, of the one with most steps to come), then of those whose next cell has the same shape. The step
is taken when the last of its cells has been run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch

from selftaught.engines._adapters import Adapters
from selftaught.engines._memory import exhausted, first_line, release
from selftaught.engines._packed import Cell, Packed
from selftaught.engines._tune import LESS, WIDTH_STEP, micro_batches
from selftaught.engines.base import Notice, StopToken
from selftaught.errors import OutOfMemory, Stopped
from selftaught.types import Example

TOKENS = {"cpu": 1536, "cuda": 4096}  # of a pack, padding included
CELL_TOKENS = 1024  # likewise, of a cell: no more, unless one sequence is longer
GROUPS = 4  # in which the rows of a table are handed out


class _Row:
    """What is still to run of an adapter's next step, its loss and its gradient so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cells: deque[Cell] = deque()
        self.begin()

    def begin(self, cells: Sequence[Cell] = ()) -> None:
        self.cells.extend(cells)
        self.loss = 0.0
        self.gradient: torch.Tensor | None = None

    def add(self, loss: float, gradient: torch.Tensor) -> None:
        self.loss += loss
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)


def cells(row: int, examples: Sequence[Example]) -> list[Cell]:
    """A step as cells of sequences of like lengths. They depend on the step alone; an empty one is a cell, too."""
    total = sum(len(e.completion_ids) for e in examples)
    found = [Cell(row, tuple(some), shape, total) for some, shape in micro_batches(examples, CELL_TOKENS)]
    return found or [Cell(row, (), (1, WIDTH_STEP))]


def train(packed: Packed, *, stop: StopToken, notice: Notice) -> Iterator[list[int]]:
    """Every job of the table to its end. Yields rows that ended, well or in error, some at once; when the next ones are
    asked for, jobs that wait take their places."""
    adapters, room = packed.adapters, TOKENS.get(packed.device.type, CELL_TOKENS)
    rows = {k: _Row(k) for k in adapters.courses}
    ended: list[int] = []
    while rows:
        for k in [k for k, row in rows.items() if not row.cells]:
            if adapters.courses[k].left:
                rows[k].begin(cells(k, adapters.courses[k].batch()))
            else:
                del rows[k]
                ended.append(k)
        if len(ended) * GROUPS >= len(adapters.courses) or not rows:
            yield ended
            rows |= {k: _Row(k) for k in ended if adapters.begin(k)}
            ended = []
            continue
        if stop():
            raise Stopped
        chosen = _choose(rows, adapters, room)
        room = _run(packed, chosen, rows, room, notice)
        whole = [rows[k] for k in dict.fromkeys(c.row for c in chosen) if not rows[k].cells]
        if whole:
            gradients = [row.gradient for row in whole if row.gradient is not None]
            adapters.advance([row.number for row in whole], gradients, [row.loss for row in whole], notice)


def _run(packed: Packed, chosen: Sequence[Cell], rows: dict[int, _Row], room: int, notice: Notice) -> int:
    """Losses and gradients of a pack, added to its rows; where memory does not suffice, in halves. The room that is
    known to be there, in tokens."""
    if not chosen:
        return room
    try:
        for cell, loss, gradient in zip(chosen, *packed.gradients(chosen), strict=True):
            rows[cell.row].add(loss, gradient)
        return room
    except Exception as error:
        if not exhausted(error):
            raise
        said = first_line(error)
    release()  # out here, where nothing of the failed attempt lives on
    if len(chosen) == 1:
        sequences, width = chosen[0].shape
        raise OutOfMemory(
            f"Memory does not suffice to train on {sequences} × {width} tokens at once: {said}", hint=LESS
        )
    room = sum(cell.tokens for cell in chosen) // 2
    notice("out of memory", during="training", tokens=2 * room, now=room, said=said)
    half = len(chosen) // 2
    return min(_run(packed, some, rows, room, notice) for some in (chosen[:half], chosen[half:]))


def _choose(rows: Mapping[int, _Row], adapters: Adapters, tokens: int) -> list[Cell]:
    """The next pack of about ``tokens``, taken out of the rows; cells of one shape stand together.

    While jobs wait the order is that in which rows began, so that some end early; then all end about together.
    """
    order = [*rows.values()]
    if not adapters.waiting:
        order.sort(key=lambda row: (-adapters.courses[row.number].left, row.number))
    chosen: list[Cell] = []
    while order:
        shape = order[0].cells[0].shape
        for row in order:
            while row.cells and row.cells[0].shape == shape and (row.cells[0].tokens <= tokens or not chosen):
                chosen.append(row.cells.popleft())
                tokens -= chosen[-1].tokens
        order = [r for r in order if r.cells and r.cells[0].shape != shape and r.cells[0].tokens <= tokens]
    return chosen
