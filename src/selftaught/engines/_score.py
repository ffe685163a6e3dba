"""Log-probabilities of given texts, in batches of like lengths.

On CPU a text's figures do not depend on the texts beside it, bit for bit: matrix products give a row the same bits
whatever the number of rows from 4 on, and a text is read at the width of its own length, rounded up to
``WIDTH_STEP``, beside others of that width alone (docs/LOG.md). Padding stands on the right, where a causal model does
not look, so none of it is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from selftaught.engines._memory import Room
from selftaught.engines.base import StopToken, never
from selftaught.errors import Stopped
from selftaught.store import chunks

TOKENS = 2048  # read at once, padding included
LOGIT_BYTES = 1 << 28  # and fewer where their logits in float32 would be larger; one text is read at any size
WIDTH_STEP = 16


def score(
    model: Any, sequences: Sequence[tuple[int, ...]], room: Room, *, stop: StopToken = never
) -> list[list[float]]:
    """Natural-log probabilities of ids 1..n-1 of each sequence given what stands before them."""
    result: list[list[float]] = [[] for _ in sequences]
    tokens = min(TOKENS, LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    for chosen in batches([len(s) for s in sequences], tokens):
        if stop():
            raise Stopped
        width = padded(len(sequences[chosen[0]]))
        found = room.run(lambda some: _score(model, [sequences[i] for i in some]), chosen, width)
        for i, scores in zip(chosen, found, strict=True):
            result[i] = scores
    return result


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of texts that are padded to one width, about ``tokens`` at once with their padding, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for width, group in groupby(order, key=lambda i: padded(lengths[i])):
        yield from map(list, chunks(list(group), max(1, tokens // width)))


def padded(tokens: int) -> int:
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP


@torch.inference_mode()
def _score(model: Any, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
    width = padded(max(map(len, sequences)))
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    ids = ids.to(model.device)
    logits = model(input_ids=ids, use_cache=False, **positions(model, width)).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )
    found = -loss.view(len(sequences), width - 1)
    return [found[row, : len(sequence) - 1].tolist() for row, sequence in enumerate(sequences)]


def positions(model: Any, width: int) -> dict[str, torch.Tensor]:
    """Padding may go beyond the last position that the model has: it stands there, then."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or width
    if width <= context:
        return {}
    return {"position_ids": torch.arange(width, device=model.device).clamp(max=context - 1)[None]}
