"""How requests become batches: of one checkpoint and one way to draw, and no more rows at once than have room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selftaught.engines.base import Request

MIN_ROWS = 64  # samples that make a batch of their own worth while
BATCH_SLOTS = 16  # rows of a batch, in slots: the more, the less the end of it costs, where slots run empty


@dataclass(frozen=True)
class Part:
    """Samples ``first`` .. ``last - 1`` of one request."""

    request: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def plan(requests: Sequence[Request], slots: int, workers: int = 1) -> list[list[Part]]:
    """Batches of requests of one checkpoint and sampling, in the order of their prompts' lengths; at least two for each
    worker where there are samples enough."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for i in sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i)):
        kinds.setdefault(kind(requests[i]), []).append(i)
    total = sum(len(r.seeds) for r in requests)
    batches: list[list[Part]] = []
    for _, alike in sorted(kinds.items()):
        batches += _cut(requests, alike, min(BATCH_SLOTS * slots, max(MIN_ROWS, total // (2 * workers))))
    return batches


def kind(request: Request) -> tuple[str, str]:
    """What the rows of a batch have in common; each may end at a length of its own."""
    return request.checkpoint.digest, repr(replace(request.sampling, n=1, min_tokens=0, max_tokens=0))


def _cut(requests: Sequence[Request], chosen: Sequence[int], rows: int) -> Iterator[list[Part]]:
    batch: list[Part] = []
    left = rows
    for i in chosen:
        first, count = 0, len(requests[i].seeds)
        while first < count:
            last = min(count, first + left)
            batch.append(Part(i, first, last))
            left -= last - first
            first = last
            if not left:
                yield batch
                batch, left = [], rows
    if batch:
        yield batch


def seats(requests: Sequence[Request], context: int, cost: Cost, free: int, most: int) -> int:
    """How many of ``most`` slots to make in ``free`` bytes: each has room for the longest request."""
    width = max((len(r.prompt_ids) + r.sampling.max_tokens for r in requests), default=1)
    return max(1, min(most, free // (cost.token * min(width, context) + cost.row)))


@dataclass(frozen=True)
class Cost:
    """Bytes that a token adds in keys and values, and that a row takes besides: logits, three times over in a draw."""

    token: int
    row: int


def cost(config: Any) -> Cost:
    """In float32; an upper guess for models with smaller caches."""
    text: Any = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", 12)
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", 12)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Cost(int(2 * layers * int(heads or 1) * int(width) * 4), 3 * 4 * int(text.vocab_size))
