"""Log-probabilities of given sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from selftaught.engines._memory import Room
from selftaught.engines.base import StopToken, never
from selftaught.errors import Stopped


def score(
    model: Any, sequences: Sequence[tuple[int, ...]], room: Room, *, rows: int = 32, stop: StopToken = never
) -> list[list[float]]:
    """Log-probabilities of ids 1..n-1 of each sequence; right-padded batches of similar length, padding ignored."""
    result: list[list[float]] = [[] for _ in sequences]
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(order), rows):
        if stop():
            raise Stopped
        chosen = order[start : start + rows]
        width = max(len(sequences[i]) for i in chosen)
        found = room.run(lambda some: _score(model, [sequences[i] for i in some]), chosen, width)
        for i, scores in zip(chosen, found, strict=True):
            result[i] = scores
    return result


@torch.inference_mode()
def _score(model: Any, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
    width = max(map(len, sequences))
    ids = torch.zeros((len(sequences), width), dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, device=model.device)
        mask[row, : len(sequence)] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    picked = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[:, :, 0]
    return [picked[row, : len(sequence) - 1].tolist() for row, sequence in enumerate(sequences)]
