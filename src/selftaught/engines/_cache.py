"""Keys and values of what is being sampled: one slot per row, each with as much room as the longest may need.

Nothing grows and nothing is gathered while tokens are drawn: a row writes at its own position, a new row is copied into
the slot of one that ended.
"""

from __future__ import annotations

import torch

FLOOR = 4  # rows below which a matrix library sums in another order, so that a row alone would differ
STEP = 16  # lengths are rounded up to a multiple of it
SPLIT = (192, 384)  # widths between which sums over a width are split in two halves, whose edge moves with it
Band = tuple[int, int, int]  # rows first..last-1 attend to at most so many positions


def padded(length: int) -> int:
    """The width that a length is rounded up to: sums over widths of this kind come out the same, whatever the width."""
    width = -(-length // STEP) * STEP
    return SPLIT[1] if SPLIT[0] < width < SPLIT[1] else width


class Slots:
    """Per layer two tensors [slots, heads, width, head size]. Made on the first ``seat``, which knows the sizes.

    With ``turned`` keys are [slots, heads, head size, width], as the product with a query reads them fastest.
    """

    def __init__(self, count: int, width: int, turned: bool = False) -> None:
        self.count, self.width, self.turned = count, padded(width), turned
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def seat(self, slots: torch.Tensor, read: Read, which: torch.Tensor) -> None:
        """Copy prompts ``which`` of ``read`` into ``slots``."""
        if not self.keys:
            self.keys = [
                self._empty(t).transpose(2, 3).contiguous() if self.turned else self._empty(t) for t in read.keys
            ]
            self.values = [self._empty(t) for t in read.values]
        for held, new in zip(self._upright(), (*read.keys, *read.values), strict=True):
            held[slots, :, : new.shape[2]] = new[which, :, : self.width]  # less what is padding

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.count, like.shape[1], self.width, like.shape[3])

    def _upright(self) -> list[torch.Tensor]:
        """All tensors as [slots, heads, width, head size]."""
        return [*(k.transpose(2, 3) if self.turned else k for k in self.keys), *self.values]

    def permute(self, order: torch.Tensor, width: int) -> None:
        """Row i becomes what row ``order[i]`` was, up to ``width`` positions."""
        for held in self._upright():
            held[: len(order), :, :width] = held[order, :, :width]

    def move(self, to: torch.Tensor, source: torch.Tensor, width: int) -> None:
        for held in self._upright():
            held[to, :, :width] = held[source, :, :width]


class Read:
    """Prompts that were read once: the logits after each [P, V], and their keys and values [P, heads, length, size]."""

    def __init__(self, logits: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        self.logits, self.keys, self.values = logits, keys, values

    @property
    def size(self) -> int:
        return len(self.logits)
