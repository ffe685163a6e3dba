"""One token from a distribution, by one uniform number that belongs to (seed, position) and to nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from selftaught.types import Sampling

BLOCK = 128  # tokens whose weights are summed first; the token is then looked for in its block alone


def uniforms(seeds: np.ndarray[Any, Any], positions: np.ndarray[Any, Any] | int) -> np.ndarray[Any, Any]:
    """One uniform in [0, 1) per seed and position: splitmix64 (Steele et al. 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        counter = np.asarray(positions).astype(np.uint64) + np.uint64(1)
        z = seeds.astype(np.uint64) + counter * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    found: np.ndarray[Any, Any] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, log-probs), each [B], from logits [B, V] and uniforms [B]: the distribution function is inverted.

    Greedy takes the argmax at temperature 1. Sums are float64, so that a long vocabulary is drawn from exactly.
    """
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, torch.log_softmax(logits.float(), -1).gather(1, ids[:, None])[:, 0]
    scaled = logits.float() / sampling.temperature
    if sampling.top_k:
        kth = scaled.topk(min(sampling.top_k, scaled.shape[-1]), -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kth, -torch.inf)
    if sampling.top_p < 1:
        scaled = _nucleus(scaled, sampling.top_p)
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp_()
    ids, total = _find(weights, uniform.double())
    return ids, (weights.gather(1, ids[:, None])[:, 0].double() / total).log()


def _find(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the first index at which the running share of the weights exceeds ``uniform``, the sum of the weights)."""
    rows, size = weights.shape
    if size <= 2 * BLOCK:
        return _search(weights.double().cumsum(-1), uniform)
    padded = torch.nn.functional.pad(weights, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    blocks = padded.sum(-1, dtype=torch.float64).cumsum(-1)
    block, total = _search(blocks, uniform)
    every = torch.arange(rows, device=weights.device)
    end, before = blocks[every, block], blocks[every, (block - 1).clamp(min=0)].where(block > 0, 0.0)
    inside, _ = _search(padded[every, block].double().cumsum(-1), (uniform * total - before) / (end - before))
    return block * BLOCK + inside, total


def _search(cumulative: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the running sum first exceeds ``share`` of itself, never on a weight of zero; and the sum."""
    total = cumulative[:, -1]
    target = torch.minimum(share.clamp(min=0.0) * total, total * (1 - 2**-52))
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return found.clamp_(max=cumulative.shape[-1] - 1), total  # NaN is nowhere


def _nucleus(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose mass reaches ``top_p`` (Holtzman et al. 2020)."""
    ordered, index = scaled.sort(-1, descending=True)
    mass = torch.softmax(ordered, -1).cumsum(-1)
    drop = mass - torch.softmax(ordered, -1) >= top_p
    return scaled.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), -torch.inf)
