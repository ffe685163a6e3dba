"""A plain sampler over any causal language model's own forward, with its key-value cache.

Each prompt of a batch is read once; its cache rows are then copied to all its samples. Finished rows leave the batch.
A token is drawn by inverting the distribution function at one uniform that depends on (seed, position) alone, so a
sample does not depend on its neighbours' randomness, on batch order or on a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from selftaught.engines._memory import Room
from selftaught.engines.base import Completion, Progress, Request, StopToken, never, quiet
from selftaught.errors import Stopped
from selftaught.types import Sampling

CACHE_BYTES = 1 << 30  # room for one batch's key-value cache
MIN_ROWS = 64  # a batch this large is closed when the prompt length changes, which keeps it free of padding


@dataclass(frozen=True)
class Part:
    """Samples ``first`` .. ``last - 1`` of one request."""

    request: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def uniforms(seeds: np.ndarray[Any, Any], position: int) -> np.ndarray[Any, Any]:
    """One uniform in [0, 1) per seed for a position: splitmix64 (Steele et al. 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        z = seeds.astype(np.uint64) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def plan(requests: Sequence[Request], cache_bytes_per_token: int, max_rows: int) -> list[list[Part]]:
    """Batches of like requests: same checkpoint and sampling, similar prompt length, bounded cache size."""
    order = sorted(range(len(requests)), key=lambda i: (_kind(requests[i]), len(requests[i].prompt_ids), i))
    batches: list[list[Part]] = []
    rows, longest = 0, 0
    for i in order:
        request = requests[i]
        length = len(request.prompt_ids) + request.sampling.max_tokens
        limit = max(1, min(max_rows, CACHE_BYTES // max(1, cache_bytes_per_token * length)))
        for first in range(0, len(request.seeds), limit):
            part = Part(i, first, min(first + limit, len(request.seeds)))
            previous = requests[batches[-1][-1].request] if batches else None
            if (
                previous is None
                or _kind(previous) != _kind(request)
                or rows + len(part) > limit
                or (rows >= MIN_ROWS and len(request.prompt_ids) != longest)
            ):
                batches.append([])
                rows = 0
            batches[-1].append(part)
            rows, longest = rows + len(part), len(request.prompt_ids)
    return batches


def _kind(request: Request) -> tuple[str, str]:
    return request.checkpoint.digest, repr(request.sampling)


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, log-probs), each [B], from logits [B, V] and uniforms [B]; greedy takes the argmax at temperature 1."""
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, torch.log_softmax(logits.float(), -1).gather(1, ids[:, None])[:, 0]
    scaled = logits.float() / sampling.temperature
    if sampling.top_k:
        kth = scaled.topk(min(sampling.top_k, scaled.shape[-1]), -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    if sampling.top_p < 1:
        scaled = _nucleus(scaled, sampling.top_p)
    probabilities = torch.softmax(scaled, -1).double()
    cumulative = probabilities.cumsum(-1)
    target = (uniform.double() * cumulative[:, -1])[:, None]
    ids = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], probabilities.gather(1, ids)[:, 0].log()


def _nucleus(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose mass reaches ``top_p`` (Holtzman et al. 2020)."""
    ordered, index = scaled.sort(-1, descending=True)
    mass = torch.softmax(ordered, -1).cumsum(-1)
    drop = mass - torch.softmax(ordered, -1) >= top_p
    return scaled.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), -torch.inf)


class _Batch:
    """Rows being sampled together. ``live`` holds the row numbers still in the cache."""

    def __init__(
        self,
        model: Any,
        prompts: list[tuple[int, ...]],
        owner: list[int],
        seeds: list[int],
        sampling: Sampling,
        ends: frozenset[int],
        context: int,
    ) -> None:
        self.model, self.sampling, self.ends = model, sampling, ends
        self.limits = [min(sampling.max_tokens, context - len(prompts[k])) for k in owner]  # each row's own
        self.seeds = np.array(seeds, dtype=np.uint64)
        self.ids: list[list[int]] = [[] for _ in seeds]
        self.logprobs: list[list[float]] = [[] for _ in seeds]
        self.finish = ["length"] * len(seeds)
        self.live = np.arange(len(seeds))
        self.logits = self._read(prompts, owner)

    def _read(self, prompts: list[tuple[int, ...]], owner: list[int]) -> torch.Tensor:
        from transformers import DynamicCache

        longest = max(map(len, prompts))
        device = self.model.device
        ids = torch.zeros((len(prompts), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padding stands on the left
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, longest - len(prompt) :] = 1
        self.cache = DynamicCache(config=self.model.config)
        padded = bool((mask == 0).any())
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        index = torch.tensor(owner, device=device)
        self.cache.batch_select_indices(index)
        self.mask = mask[index] if padded else None
        self.positions = positions[index, -1]
        logits: torch.Tensor = out.logits[:, -1][index]
        return logits

    def step(self, position: int, stops: Any) -> None:
        """Draw one token for every live row, drop the rows that ended, and run the model on the rest."""
        u = torch.from_numpy(uniforms(self.seeds[self.live], position)).to(self.logits.device)
        ids, logprobs = draw(self.logits, u, self.sampling)
        keep = []
        drawn = zip(self.live.tolist(), ids.tolist(), logprobs.tolist(), strict=True)
        for slot, (row, token, logprob) in enumerate(drawn):
            self.ids[row].append(token)
            self.logprobs[row].append(logprob)
            if token in self.ends or (self.sampling.stop and stops(self.ids[row], self.sampling.stop)):
                self.finish[row] = "stop"
            elif position + 1 < self.limits[row]:
                keep.append(slot)
        if len(keep) < len(self.live):
            self._drop(keep)
        if keep:
            self._advance(ids[torch.tensor(keep, device=ids.device)])

    def _drop(self, keep: list[int]) -> None:
        index = torch.tensor(keep, dtype=torch.long, device=self.positions.device)
        self.live = self.live[keep]
        if keep:
            self.cache.batch_select_indices(index)
            self.positions = self.positions[index]
            self.mask = self.mask[index] if self.mask is not None else None

    def _advance(self, ids: torch.Tensor) -> None:
        self.positions = self.positions + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        out = self.model(
            input_ids=ids[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = out.logits[:, -1]


@torch.inference_mode()
def sample_batch(
    model: Any, tokens: Any, requests: Sequence[Request], parts: Sequence[Part], *, stop: StopToken = never
) -> list[tuple[Part, list[Completion]]]:
    """Run one planned batch. Prompts must leave room in the context; the caller checks that."""
    asked = [requests[p.request] for p in parts]
    owner = [k for k, p in enumerate(parts) for _ in range(len(p))]
    seeds = [s for p, r in zip(parts, asked, strict=True) for s in r.seeds[p.first : p.last]]
    prompts = [r.prompt_ids for r in asked]
    batch = _Batch(model, prompts, owner, seeds, asked[0].sampling, ends(model, tokens), tokens.context)
    for position in range(max(batch.limits)):
        if stop():
            raise Stopped
        batch.step(position, lambda ids, stops: any(s in tokens.decode(ids) for s in stops))
        if not len(batch.live):
            break
    rows: Iterator[Completion] = (
        Completion(tuple(i), tuple(lp), f) for i, lp, f in zip(batch.ids, batch.logprobs, batch.finish, strict=True)
    )
    return [(part, [next(rows) for _ in range(len(part))]) for part in parts]


def sample(
    model: Any, tokens: Any, requests: Sequence[Request], parts: Sequence[Part], room: Room, *, stop: StopToken = never
) -> list[tuple[Part, list[Completion]]]:
    """Run one planned batch in as few pieces as fit into memory."""

    def piece(rows: Sequence[tuple[int, int]]) -> list[Completion]:
        spans = [(request, [i for _, i in group]) for request, group in groupby(rows, key=lambda row: row[0])]
        asked = [Part(request, span[0], span[-1] + 1) for request, span in spans]
        return [c for _, found in sample_batch(model, tokens, requests, asked, stop=stop) for c in found]

    rows = [(p.request, i) for p in parts for i in range(p.first, p.last)]
    longest = max(len(requests[p.request].prompt_ids) for p in parts)
    width = min(longest + requests[parts[0].request].sampling.max_tokens, tokens.context)
    found = iter(room.run(piece, rows, width))
    return [(part, [next(found) for _ in range(len(part))]) for part in parts]


def ends(model: Any, tokens: Any) -> frozenset[int]:
    """End-of-text ids from the generation config and the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    many = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*many, tokens.eos) if i is not None)


def cache_bytes_per_token(config: Any) -> int:
    """Bytes of keys and values that one token adds in float32; an upper guess for models with smaller caches."""
    text: Any = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", 12)
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", 12)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * layers * int(heads or 1) * int(width) * 4)


def run(
    model: Any,
    tokens: Any,
    requests: Sequence[Request],
    batches: Sequence[list[Part]],
    room: Room,
    *,
    stop: StopToken = never,
    progress: Progress = quiet,
) -> Iterator[list[tuple[Part, list[Completion]]]]:
    """The planned batches one after the other, in this process."""
    done, total = 0, sum(len(r.seeds) for r in requests)
    for parts in batches:
        finished = sample(model, tokens, requests, parts, room, stop=stop)
        done += sum(len(p) for p in parts)
        progress(done, total, "samples")
        yield finished
