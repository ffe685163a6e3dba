"""Sampling from many adapters in one batch: ``Lean``, whose rows know the adapter that they belong to.

The rows of one adapter go through it in blocks of ``FLOOR``, filled up with rows of no meaning: fewer would be summed
in another order, so that a row's bits would depend on how many others of its adapter there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional

from selftaught.engines._cache import FLOOR, Band, Read, Slots
from selftaught.engines._lean import Lean
from selftaught.engines._packed import Packed
from selftaught.engines._product import Product

ROWS = 16  # stepped rows are filled up to a multiple of these: a matrix library pays for every size it meets


class Prompt(tuple[int, ...]):
    """Ids of a prompt that ``row`` of a table of adapters is to answer. Equal where both are."""

    row: int

    def __new__(cls, ids: Sequence[int], row: int) -> Prompt:
        made = super().__new__(cls, ids)
        made.row = row
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.row == other.row and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash((self.row, tuple(self)))


class _Owned(Slots):
    """Slots whose rows have an owner; ``version`` counts the changes."""

    def __init__(self, count: int, width: int, device: Any) -> None:
        super().__init__(count, width, turned=True)
        self.owners = torch.zeros(count, dtype=torch.long, device=device)
        self.version = 0

    def seat(self, slots: torch.Tensor, read: Read, which: torch.Tensor) -> None:
        super().seat(slots, read, which)
        assert isinstance(read, _OwnedRead)
        self._owned(slots, torch.tensor(read.owners, device=which.device)[which])

    def permute(self, order: torch.Tensor, width: int) -> None:
        super().permute(order, width)
        self._owned(slice(len(order)), self.owners[order])

    def move(self, to: torch.Tensor, source: torch.Tensor, width: int) -> None:
        super().move(to, source, width)
        self._owned(to, self.owners[source])

    def _owned(self, slots: Any, owners: torch.Tensor) -> None:
        self.owners[slots] = owners
        self.version += 1


class _OwnedRead(Read):
    def __init__(self, read: Read, owners: Sequence[int]) -> None:
        super().__init__(read.logits, read.keys, read.values)
        self.owners = owners


class _Blocks:
    """Rows of these ``owners``, sorted into blocks of one owner each: ``place`` [blocks * FLOOR] names the row that
    stands there, ``back`` [rows] where each row is found; neither where rows stand so already."""

    def __init__(self, owners: Sequence[int], device: Any) -> None:
        rows: dict[int, list[int]] = {}
        for row, owner in enumerate(owners):
            rows.setdefault(owner, []).append(row)
        self.owners: list[int] = []
        place: list[int] = []
        for owner, mine in rows.items():
            place += mine + mine[-1:] * (-len(mine) % FLOOR)
            self.owners += [owner] * (-(-len(mine) // FLOOR))
        self.sorted = place == list(range(len(owners)))
        back = {row: at for at, row in reversed(list(enumerate(place)))}
        self.place = torch.tensor(place, device=device)
        self.back = torch.tensor([back[row] for row in range(len(owners))], device=device)


class Asked(Lean):
    """``packed`` as a decoder. Prompts are ``Prompt``s."""

    name = "packed"

    def __init__(self, packed: Packed) -> None:
        vars(self).update(vars(packed.lean))
        self.packed = packed
        self.embed, self.norm = packed.frozen.embed.float(), packed.frozen.norm
        self.layers: list[Any] = list(packed.layers)
        self.cos, self.sin = packed.frozen.cos[:, 0], packed.frozen.sin[:, 0]
        self._held: tuple[list[int], torch.Tensor, torch.Tensor] | None = None
        self._seen: tuple[int, int] | None = None

    def slots(self, count: int, width: int, most: int) -> _Owned:
        self._seen = None
        return _Owned(count + -count % ROWS, width, self.embed.device)

    def read(self, prompts: Sequence[tuple[int, ...]]) -> Read:
        owners = [p.row for p in prompts if isinstance(p, Prompt)]
        self._arrange(owners)
        self._seen = None
        return _OwnedRead(super().read(prompts), owners)

    def step(self, slots: Any, ids: torch.Tensor, positions: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
        live, spare = len(ids), -len(ids) % ROWS
        if self._seen != (slots.version, live):
            owners = slots.owners[:live].tolist()
            self._arrange(owners + owners[-1:] * spare)
            self._seen = (slots.version, live)
        ids, positions = (functional.pad(t, (0, spare)) for t in (ids, positions))
        return super().step(slots, ids, positions, _joined(bands, spare))[:live]

    def _arrange(self, owners: Sequence[int]) -> None:
        """What follows is about rows of these owners."""
        self._blocks = _Blocks(owners, self.embed.device)
        if self._held is None or self._held[0] != self._blocks.owners:
            table, mine = self.packed.adapters, self._blocks.owners
            scales = table.scales[torch.tensor(mine, device=self.embed.device)][:, None, None]
            self._held = mine, table.take(mine), scales

    # ------------------------------------------------------------ parts of a layer

    def _joint(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        return self._product(layer.qkv, self._normed(x, layer.before))

    def _onward(self, layer: Any, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = x + self._product(layer.out, seen)
        gate, up = self._product(layer.gate_up, self._normed(x, layer.after)).chunk(2, -1)
        return x + self._product(layer.down, functional.silu(gate) * up)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        frozen = self.packed.frozen
        return functional.linear(self._normed(x, self.norm).to(frozen.dtype), frozen.head).float()

    def _product(self, product: Product, x: torch.Tensor) -> torch.Tensor:
        y = functional.linear(x.to(product.weight.dtype), product.weight, product.bias).float()
        if not product.parts:
            return y
        assert self._held is not None
        owners, rows, scales = self._held
        blocks = self._blocks
        if blocks.sorted:
            product.add(y.view(len(owners), -1, y.shape[-1]), x.reshape(len(owners), -1, x.shape[-1]), rows, scales)
            return y
        placed = y[blocks.place]
        product.add(
            placed.view(len(owners), -1, y.shape[-1]),
            x[blocks.place].view(len(owners), -1, x.shape[-1]),
            rows,
            scales,
        )
        return placed[blocks.back]


def _joined(bands: Sequence[Band], spare: int) -> list[Band]:
    """Neighbours of one width as one band; the last has ``spare`` rows more."""
    found: list[Band] = []
    for width, some in groupby(bands, key=lambda band: band[2]):
        alike = list(some)
        found.append((alike[0][0], alike[-1][1], width))
    first, last, width = found[-1]
    return [*found[:-1], (first, last + spare, width)]
