"""A frozen matrix with the LoRA adapters of many on it, forward and backward: their part of ``_packed``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from selftaught.engines._adapters import Adapters

Back = Callable[..., torch.Tensor]  # from the gradient by a result to that by what it was made of


@dataclass(frozen=True)
class Group:
    """Neighbouring cells of one shape (sequences, width): which of a pack's cells and of its tokens they are."""

    cells: slice
    tokens: slice
    shape: tuple[int, int]

    @property
    def sequences(self) -> int:
        return int(self.cells.stop - self.cells.start) * self.shape[0]

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """[cells, tokens of a cell, size] of [tokens of the pack, size]."""
        return flat[self.tokens].view(-1, self.shape[0] * self.shape[1], flat.shape[-1])


class Live:
    """The adapters of a pack's cells, a row each: ``values`` [cells, P], ``scales`` [cells, 1, 1], and ``gradients``,
    where they are made."""

    def __init__(self, adapters: Adapters, rows: Sequence[int], learning: bool = False) -> None:
        self.values = adapters.take(rows)
        self.scales = adapters.scales[torch.tensor(rows, device=self.values.device)][:, None, None]
        self.gradients = torch.empty_like(self.values) if learning else None


class Product:
    """y = x W' + bias, and on parts of y the adapters' s B A x. ``weight`` [outputs, inputs].

    The product with W is made in W's own dtype; all else, and what goes in and comes out, is float32. ``parts``: the
    linear layers that were joined in W, each with its outputs, in order.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, parts: Sequence[tuple[str, int]], adapters: Adapters
    ) -> None:
        self.weight, self.bias, self.rank = weight, bias, adapters.rank
        at, number = adapters.offsets, {site.name: i for i, site in enumerate(adapters.sites)}
        self.parts: list[tuple[slice, slice]] = []  # outputs; B in a row of the table
        known: list[int] = []
        first = 0
        for name, size in parts:
            if name in number:
                known.append(number[name])
                b = len(number) + known[-1]
                self.parts.append((slice(first, first + size), slice(at[b], at[b + 1])))
            first += size
        self.downs = slice(at[known[0]], at[known[-1] + 1]) if known else slice(0, 0)

    def __call__(self, x: torch.Tensor, groups: Sequence[Group], live: Live) -> tuple[torch.Tensor, Back]:
        """y [tokens, outputs] of x [tokens, inputs]."""
        y = functional.linear(x.to(self.weight.dtype), self.weight, self.bias).float()
        if not self.parts:
            return y, self._through  # holds no x
        inner = [self.add(g.view(y), g.view(x), live.values[g.cells], live.scales[g.cells]) for g in groups]

        def back(dy: torch.Tensor, onward: bool = True) -> torch.Tensor:
            """The gradient by x, if it is to go ``onward``; those by A and B are written to ``live``."""
            dx = self._through(dy) if onward else dy
            for group, held in zip(groups, inner, strict=True):
                dinner = self._learn(group.view(dy), group.view(x), held, group, live)
                if onward:
                    group.view(dx).baddbmm_(dinner, self._down(live.values[group.cells]))
            return dx

        return y, back

    def _through(self, dy: torch.Tensor) -> torch.Tensor:
        return torch.mm(dy.to(self.weight.dtype), self.weight).float()

    def add(self, y: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """y [cells, tokens, outputs] += s B A x by the adapter of each cell. Returns s A x."""
        inner = torch.bmm(x, self._down(rows).transpose(1, 2)).mul_(scales)
        for part, (outputs, _) in enumerate(self.parts):
            y[..., outputs] += torch.bmm(inner[..., self._of(part)], self._up(rows, part).transpose(1, 2))
        return inner

    def _learn(self, dy: torch.Tensor, x: torch.Tensor, inner: torch.Tensor, group: Group, live: Live) -> torch.Tensor:
        """Gradients by A and B of a group's cells, written to ``live``; returns that by A x."""
        assert live.gradients is not None
        rows, wanted = live.values[group.cells], live.gradients[group.cells]
        dinner = torch.empty_like(inner)
        for part, (outputs, _) in enumerate(self.parts):
            mine, of = dy[..., outputs], self._of(part)
            torch.bmm(mine.transpose(1, 2), inner[..., of], out=self._up(wanted, part))
            dinner[..., of] = torch.bmm(mine, self._up(rows, part))
        dinner.mul_(live.scales[group.cells])
        torch.bmm(dinner.transpose(1, 2), x, out=self._down(wanted))
        return dinner

    def _down(self, rows: torch.Tensor) -> torch.Tensor:
        """The A's of all parts, [cells, parts * rank, inputs], in rows [cells, P] of the table."""
        return rows[:, self.downs].view(len(rows), len(self.parts) * self.rank, -1)

    def _up(self, rows: torch.Tensor, part: int) -> torch.Tensor:
        """B of one part, [cells, outputs, rank]."""
        return rows[:, self.parts[part][1]].view(len(rows), -1, self.rank)

    def _of(self, part: int) -> slice:
        return slice(part * self.rank, (part + 1) * self.rank)
