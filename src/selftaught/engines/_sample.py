"""Sampling over slots: a row that ends makes room for the next at once, and a prompt is read once for all its samples.

Results are the same, bit for bit on a CPU, whatever slot a row sits in and whoever sits beside it: a token is drawn by
one uniform of its own (``_draw``), and the arithmetic of a row does not depend on the others (``_cache``, ``_lean``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch

from selftaught.engines._batches import Part
from selftaught.engines._cache import Band, Read, padded
from selftaught.engines._draw import draw, uniforms
from selftaught.engines._forward import Forward
from selftaught.engines._guide import Guides, hold_open
from selftaught.engines._lean import lean
from selftaught.engines._memory import Room, exhausted, first_line
from selftaught.engines._native import native
from selftaught.engines._stops import Stops
from selftaught.engines.base import Completion, Progress, Request, StopToken, never, quiet
from selftaught.errors import NonFiniteLogits, Stopped
from selftaught.types import Sampling

READ_TOKENS = 4096  # tokens of prompts, with their padding, that are read at once
BAND = 16  # rows that attend to as many positions as the longest of them needs
RESORT = 16  # steps after which rows may be put in the order of their lengths, so that bands are of like lengths


# ---------------------------------------------------------------- decoders


class Decoder(Protocol):
    """A model that reads prompts and goes on by a token. ``together``: indices of prompts that may be read at once."""

    name: str
    banded: bool  # rows attend to as many positions as the longest of their band
    floor: int  # rows below which a row's bits may depend on their number

    def slots(self, count: int, width: int, most: int) -> Any:
        """Room for ``count`` rows of up to ``width`` tokens, of which up to ``most`` are sampled."""
        ...

    def together(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]: ...

    def read(self, prompts: Sequence[tuple[int, ...]]) -> Read: ...

    def step(self, slots: Any, ids: torch.Tensor, positions: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor: ...


_decoders: WeakKeyDictionary[Any, dict[str, Decoder]] = WeakKeyDictionary()


@torch.inference_mode()
def decoder(model: Any, kernels: str = "") -> Decoder:
    """The fastest that gives the model's own logits; compiled ``kernels`` among them where their path is given."""
    known = _decoders.setdefault(model, {})
    if kernels not in known:
        known[kernels] = (native(model, kernels) if kernels else None) or lean(model) or Forward(model)
    return known[kernels]


# ---------------------------------------------------------------- one batch


class _Batch:
    """Rows being sampled. Slots 0 .. ``live`` - 1 are taken; arrays hold what each of them is about."""

    def __init__(
        self,
        decoder: Decoder,
        model: Any,
        tokens: Any,
        requests: Sequence[Request],
        parts: Sequence[Part],
        count: int,
        stop: StopToken,
    ) -> None:
        self.decoder, self.device = decoder, model.device
        self.requests, self.parts, self.tokens = requests, parts, tokens
        self.sampling: Sampling = requests[parts[0].request].sampling
        self.ends = np.array(sorted(ends(model, tokens)), dtype=np.int64)
        self.stops = Stops(tokens, self.sampling.stop) if self.sampling.stop else None
        self.guides: Guides | None = None  # made when the first logits say how wide they are
        self.least = np.array([requests[p.request].sampling.min_tokens for p in parts])
        self.done: list[dict[int, Completion]] = [{} for _ in parts]
        self.whole: list[int] = []  # parts whose samples are all there and not yet handed out
        lengths = [len(requests[p.request].prompt_ids) for p in parts]
        self.limits = np.array([min(requests[p.request].sampling.max_tokens, tokens.context - n)
                                for p, n in zip(parts, lengths, strict=True)])  # fmt: skip
        self.slots = self.decoder.slots(
            max(count, self.decoder.floor), int((np.array(lengths) + self.limits).max()), int(self.limits.max())
        )
        numbers: dict[tuple[int, ...], int] = {}  # a prompt that stands twice is read once
        self.number = [numbers.setdefault(requests[p.request].prompt_ids, len(numbers)) for p in parts]
        order = sorted(range(len(parts)), key=self.number.__getitem__)
        self.queue = deque((k, i) for k in order for i in range(len(parts[k])))
        self.to_read = _chunks(self.decoder, list(numbers), count)
        self.stop = stop
        self.read: Read | None = None
        self.read_first = 0
        self.live = min(count, len(self.queue))
        self.part, self.sample, self.drawn, self.position, self.token = np.zeros((5, self.slots.count), dtype=np.int64)
        self.text = np.arange(self.slots.count)  # which of the guides' texts a row writes
        self.seed = np.zeros(self.slots.count, dtype=np.uint64)
        most = int(self.limits.max())
        self.ids = np.zeros((self.slots.count, most), dtype=np.int64)
        self.logprobs = np.zeros((self.slots.count, most))

    def run(self) -> Iterator[tuple[Part, list[Completion]]]:
        """Parts as they finish, the samples of each in order."""
        self._fill(np.arange(self.live))
        steps = 0
        while self.live or self.whole:
            if self.stop():
                raise Stopped
            for k in self.whole:
                yield self.parts[k], [c for _, c in sorted(self.done[k].items())]
            self.whole.clear()
            if self.decoder.banded and steps % RESORT == 0:
                self._sort()
            steps += 1
            if self.live:
                self._fill(self._take(np.arange(self.live), self._step()))

    # ------------------------------------------------------------ rows come and go

    def _fill(self, vacant: np.ndarray[Any, Any]) -> None:
        """Seat the next rows and draw their first token, until every slot goes on or nobody waits any more."""
        while len(vacant) and self.queue:
            read, first = self._prompts()
            here: list[tuple[int, int]] = []
            while self.queue and len(here) < len(vacant) and self.number[self.queue[0][0]] < first + read.size:
                here.append(self.queue.popleft())
            slots = vacant[: len(here)]
            which = self._tensor(np.array([self.number[k] - first for k, _ in here]))
            self.slots.seat(self._tensor(slots), read, which)
            for slot, (k, i) in zip(slots.tolist(), here, strict=True):
                request = self.requests[self.parts[k].request]
                self.part[slot], self.sample[slot], self.drawn[slot] = k, i, 0
                self.position[slot] = len(request.prompt_ids) - 1
                self.seed[slot] = request.seeds[self.parts[k].first + i]
            vacant = np.concatenate([self._take(slots, read.logits[which]), vacant[len(here) :]])
        self._close(np.sort(vacant))

    def _prompts(self) -> tuple[Read, int]:
        """The prompts that were read and hold that of the next row in the queue, and the number of the first."""
        while self.read is None or self.number[self.queue[0][0]] >= self.read_first + self.read.size:
            if self.stop():
                raise Stopped
            self.read_first += self.read.size if self.read else 0
            self.read = self.decoder.read(next(self.to_read))
        return self.read, self.read_first

    def _close(self, vacant: np.ndarray[Any, Any]) -> None:
        """The last rows move into vacant slots, so that those in use stand together."""
        if not len(vacant):
            return
        left = self.live - len(vacant)
        holes = vacant[vacant < left]
        movers = np.setdiff1d(np.arange(left, self.live), vacant)
        if len(holes):
            self.slots.move(self._tensor(holes), self._tensor(movers), self._width(self.position[movers]))
            for array in self._arrays():
                array[holes] = array[movers]
        self.live = left

    def _sort(self) -> None:
        """Longest rows first, where that makes the bands narrower by a quarter."""
        if self.live <= 2 * BAND:
            return
        order = np.argsort(-self.position[: self.live], kind="stable")
        if self._area(self.position[: self.live]) > 1.25 * self._area(self.position[order]):
            self.slots.permute(self._tensor(order), self._width(self.position[: self.live]))
            for array in self._arrays():
                array[: self.live] = array[order]

    def _area(self, positions: np.ndarray[Any, Any]) -> int:
        return sum((last - first) * width for first, last, width in self._bands(positions))

    def _arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        state = self.part, self.sample, self.drawn, self.position, self.token, self.text, self.seed
        return *state, self.ids, self.logprobs

    # ------------------------------------------------------------ tokens

    def _step(self) -> torch.Tensor:
        """Logits after the last token of every live row. A few rows are filled up to the decoder's floor."""
        rows = max(self.live, self.decoder.floor)
        positions = np.where(np.arange(rows) < self.live, self.position[:rows], 0)
        bands = self._bands(positions) if self.decoder.banded else [(0, rows, self._width(positions))]
        ids = self._tensor(self.token[:rows])
        return self.decoder.step(self.slots, ids, self._tensor(positions), bands)[: self.live]

    def _bands(self, positions: np.ndarray[Any, Any]) -> list[Band]:
        starts = range(0, len(positions), BAND)
        return [(a, min(a + BAND, len(positions)), self._width(positions[a : a + BAND])) for a in starts]

    def _width(self, positions: np.ndarray[Any, Any]) -> int:
        """Positions that the longest of these rows attends to, in steps."""
        return min(int(self.slots.width), padded(int(positions.max()) + 1))

    def _take(self, rows: np.ndarray[Any, Any], logits: torch.Tensor) -> np.ndarray[Any, Any]:
        """Draw one token for each of ``rows``, note it, and return the rows that ended with it."""
        uniform = torch.from_numpy(uniforms(self.seed[rows], self.drawn[rows])).to(self.device)
        least = self.least[self.part[rows]]
        drawn, found = draw(self._masked(rows, logits, self.drawn[rows] < least), uniform, self.sampling)
        ids, logprobs = drawn.cpu().numpy(), found.double().cpu().numpy()
        if not np.isfinite(logprobs).all():
            raise NonFiniteLogits(
                "The model's logits hold NaN or infinite values, so nothing can be sampled from them.",
                hint="Are its weights whole? If they were trained in bfloat16: engine.dtype=bfloat16",
            )
        at = self.drawn[rows]
        self.ids[rows, at], self.logprobs[rows, at] = ids, logprobs
        self.token[rows] = ids
        self.drawn[rows] += 1
        self.position[rows] += 1
        stopped = (ids[:, None] == self.ends).any(1)
        if self.stops:
            said = [self.stops.end(self.ids[row, : self.drawn[row]].tolist()) for row in rows]
            stopped |= np.array(said) & (self.drawn[rows] >= least)
        if self.guides:
            self.guides.take(self.text[rows].tolist(), ids.tolist())
        over = stopped | (self.drawn[rows] >= self.limits[self.part[rows]])
        for row, finish in zip(rows[over].tolist(), np.where(stopped[over], "stop", "length").tolist(), strict=True):
            n = self.drawn[row]
            finished = Completion(tuple(self.ids[row, :n].tolist()), tuple(self.logprobs[row, :n].tolist()), finish)
            k = int(self.part[row])
            self.done[k][int(self.sample[row])] = finished
            if len(self.done[k]) == len(self.parts[k]):
                self.whole.append(k)
        ended: np.ndarray[Any, Any] = rows[over]
        return ended

    def _masked(self, rows: np.ndarray[Any, Any], logits: torch.Tensor, early: np.ndarray[Any, Any]) -> torch.Tensor:
        """Logits [len(rows), V] with -inf where a guide or ``min_tokens`` allows no token."""
        if self.sampling.guide is None and not (early.any() and len(self.ends)):
            return logits
        allowed = hold_open(self._allowed(rows, logits.shape[1]), self.ends.tolist(), torch.from_numpy(early))
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)

    def _allowed(self, rows: np.ndarray[Any, Any], width: int) -> torch.Tensor:
        """What the guide allows, bool [len(rows), width]; without one, all."""
        if self.sampling.guide is None:
            return torch.ones(len(rows), width, dtype=torch.bool)
        if self.guides is None:
            ends = frozenset(self.ends.tolist())
            self.guides = Guides(self.tokens, self.sampling.guide, ends, width, self.slots.count)
        for row in rows[self.drawn[rows] == 0]:
            self.guides.reset(int(self.text[row]))
        return self.guides.allowed(self.text[rows].tolist())

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _chunks(decoder: Decoder, prompts: Sequence[tuple[int, ...]], most: int) -> Iterator[list[tuple[int, ...]]]:
    """Neighbouring prompts that are read at once: not more than there are slots, so that less memory does."""
    for group in decoder.together(prompts):
        size = max(1, min(most, READ_TOKENS // max(len(prompts[i]) for i in group)))
        yield from ([prompts[i] for i in group[at : at + size]] for at in range(0, len(group), size))


@torch.inference_mode()
def sample_batch(
    model: Any,
    tokens: Any,
    requests: Sequence[Request],
    parts: Sequence[Part],
    count: int,
    *,
    kernels: str = "",
    by: Decoder | None = None,
    stop: StopToken = never,
) -> Iterator[tuple[Part, list[Completion]]]:
    """One planned batch over ``count`` slots, part by part as they finish, ``by`` this decoder or else the fastest.

    Prompts must leave room in the context; the caller checks that.
    """
    yield from _Batch(by or decoder(model, kernels), model, tokens, requests, parts, count, stop).run()


def sample(
    model: Any,
    tokens: Any,
    requests: Sequence[Request],
    parts: Sequence[Part],
    room: Room,
    *,
    most: int,
    kernels: str = "",
    by: Decoder | None = None,
    stop: StopToken = never,
) -> Iterator[tuple[Part, list[Completion]]]:
    """One planned batch over as many slots as fit into memory, part by part as they finish."""
    width = max(len(r.prompt_ids) + r.sampling.max_tokens for r in (requests[p.request] for p in parts))
    width = min(width, tokens.context)
    left = list(parts)
    while left:
        count = room.rows(min(most, sum(map(len, left))), width)
        try:
            for part, found in sample_batch(model, tokens, requests, [*left], count, kernels=kernels, by=by, stop=stop):
                left.remove(part)
                yield part, found
            continue
        except Exception as error:
            if not exhausted(error):
                raise
            said = first_line(error)
        room.halve(count, width, said)  # out here, where nothing of the failed attempt lives on


def ends(model: Any, tokens: Any) -> frozenset[int]:
    """End-of-text ids from the generation config and the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    many = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*many, tokens.eos) if i is not None)


def run(
    model: Any,
    tokens: Any,
    requests: Sequence[Request],
    batches: Sequence[list[Part]],
    room: Room,
    *,
    most: int,
    kernels: str,
    stop: StopToken = never,
    progress: Progress = quiet,
) -> Iterator[tuple[Part, list[Completion]]]:
    """The planned batches one after the other, in this process."""
    done, total = 0, sum(len(r.seeds) for r in requests)
    for parts in batches:
        for part, found in sample(model, tokens, requests, parts, room, most=most, kernels=kernels, stop=stop):
            done += len(part)
            progress(done, total, "samples")
            yield part, found
