"""Llama-like models in a dozen torch operations per layer, for sampling alone.

Of the time that ``transformers`` takes for one token of a small model most is not arithmetic (docs/LOG.md). This is the
same arithmetic from the same weights: RMSNorm, rotary positions, grouped queries, SwiGLU. A model is taken only if it
gives the same logits here as through its own forward; everything else goes through ``_forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch.nn import functional

from selftaught.engines._cache import FLOOR, STEP, Band, Read, Slots

FAMILY = ("llama", "qwen2", "qwen3", "mistral")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # those whose angles do not depend on the length of the text
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}

L = TypeVar("L", bound="Lean")


class Layer:
    """The tensors of one decoder layer; queries, keys and values are one matrix, gate and up another."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.qkv, self.qkv_bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.out_bias = attention.o_proj.weight.t(), attention.o_proj.bias
        self.gate_up, self.gate_up_bias = _joined(mlp.gate_proj, mlp.up_proj)
        self.down, self.down_bias = mlp.down_proj.weight.t(), mlp.down_proj.bias
        norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        self.query_norm, self.key_norm = (n.weight if n is not None else None for n in norms)


def _joined(*parts: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One matrix of several, which become parts of it, so that no weight is kept twice."""
    with torch.inference_mode(False), torch.no_grad():  # the model may still be trained
        bias = None if parts[0].bias is None else torch.cat([p.bias for p in parts])
        weight = torch.cat([p.weight for p in parts])
    for part, own in zip(parts, torch.split(weight, [len(p.weight) for p in parts]), strict=True):
        part.weight.data = own
    return weight, bias


class Lean:
    name, banded, floor = "torch", True, FLOOR

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embed, self.norm, self.head = inner.embed_tokens.weight, inner.norm.weight, model.lm_head.weight
        self.layers = [Layer(layer) for layer in inner.layers]
        every = torch.arange(config.max_position_embeddings + STEP, device=self.embed.device)[None]
        cos, sin = (t[0] for t in inner.rotary_emb(self.embed[:1], every))
        half = self.size // 2
        self.cos, self.sin = cos, torch.cat([-sin[:, :half], sin[:, half:]], 1)  # signed: see _rotate

    # ------------------------------------------------------------ one token per row

    def slots(self, count: int, width: int, most: int) -> Any:
        return Slots(count, width, turned=True)

    def step(self, slots: Any, ids: torch.Tensor, positions: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
        """Logits [B, V] after ``ids`` [B] at ``positions`` [B] of rows 0..B-1, which are written into their slots."""
        n, width, size = len(ids), slots.width, self.size
        x = functional.embedding(ids, self.embed)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        offset = torch.arange(n * self.kv_heads, device=ids.device).view(n, -1) * width
        at = (offset + positions[:, None]).view(-1)
        column = positions.repeat_interleave(self.kv_heads * size)[:, None]
        masks = [_mask(positions[a:b], w, self.kv_heads, x.dtype) for a, b, w in bands]
        for layer, keys, values in zip(self.layers, slots.keys, slots.values, strict=True):
            q, k, v = self._project(layer, x, cos, sin)
            keys.view(-1, width)[: len(column)].scatter_(1, column, k.reshape(-1, 1))
            values.view(-1, size).index_copy_(0, at, v.reshape(-1, size))
            x = self._onward(layer, x, self._attend(q, keys, values, bands, masks))
        return self._logits(x)

    def _attend(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bands: Sequence[Band],
        masks: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        kv, size = self.kv_heads, self.size
        found = []
        for (first, last, width), mask in zip(bands, masks, strict=True):
            shape = ((last - first) * kv, -1, size)
            k, v = keys[first:last].flatten(0, 1)[:, :, :width], values[first:last].flatten(0, 1)[:, :width]
            scores = torch.baddbmm(mask, q[first:last].reshape(shape), k, alpha=size**-0.5)
            found.append(torch.bmm(torch.softmax(scores, -1), v).view(last - first, -1))
        return found[0] if len(found) == 1 else torch.cat(found)

    # ------------------------------------------------------------ prompts

    def together(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Neighbours that are padded to one width: at another, attention sums what stands before in another order."""
        return [list(group) for _, group in groupby(range(len(prompts)), key=lambda i: -(-len(prompts[i]) // STEP))]

    def read(self, prompts: Sequence[tuple[int, ...]]) -> Read:
        """Whole prompts at once, padded on the right to a multiple of ``STEP``, where nothing before can see it."""
        lengths = torch.tensor([len(p) for p in prompts], device=self.embed.device)
        longest = -(-max(map(len, prompts)) // STEP) * STEP
        ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=self.embed.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt, device=ids.device)
        x = functional.embedding(ids, self.embed)
        cos, sin = self.cos[:longest, None], self.sin[:longest, None]
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in self.layers:
            q, k, v = (t.transpose(1, 2) for t in self._project(layer, x, cos, sin))
            seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != k.shape[1])
            x = self._onward(layer, x, seen.transpose(1, 2).flatten(2))
            kept.append((k, v))
        last = x[torch.arange(len(prompts), device=x.device), lengths - 1]
        last = functional.pad(last, (0, 0, 0, max(0, FLOOR - len(last))))
        logits = self._logits(last)[: len(prompts)]
        return Read(logits, [k for k, _ in kept], [v for _, v in kept])

    # ------------------------------------------------------------ parts of a layer

    def _project(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values [..., heads, size], the first two rotated to their positions."""
        every = self._joint(layer, x).view(*x.shape[:-1], -1, self.size)
        both, v = torch.split(every, [self.heads + self.kv_heads, self.kv_heads], -2)
        if layer.query_norm is not None:
            q, k = torch.split(both, [self.heads, self.kv_heads], -2)
            both = torch.cat([self._normed(q, layer.query_norm), self._normed(k, layer.key_norm)], -2)
        both = torch.addcmul(both * cos, both.roll(self.size // 2, -1), sin)
        q, k = torch.split(both, [self.heads, self.kv_heads], -2)
        return q, k, v

    def _joint(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values side by side."""
        return functional.linear(self._normed(x, layer.before), layer.qkv, layer.qkv_bias)

    def _onward(self, layer: Layer, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """The rest of a layer, behind its attention."""
        x = _added(x, seen, layer.out, layer.out_bias)
        gate, up = functional.linear(self._normed(x, layer.after), layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return _added(x, functional.silu(gate) * up, layer.down, layer.down_bias)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._normed(x, self.norm), self.head)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.eps)


def _mask(positions: torch.Tensor, width: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """[rows * heads, 1, width]: 0 up to each row's position, -inf behind it."""
    behind = torch.arange(width, device=positions.device) > positions[:, None]
    mask = torch.zeros(behind.shape, dtype=dtype, device=positions.device).masked_fill_(behind, -torch.inf)
    return mask.repeat_interleave(heads, 0)[:, None]


def _added(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x + y @ weight (+ bias)."""
    found = torch.addmm(x.flatten(0, -2), y.flatten(0, -2), weight).view(x.shape)
    return found if bias is None else found + bias


# ---------------------------------------------------------------- whether a model is of the family


@torch.inference_mode()
def lean(model: Any, make: Callable[[Any], L | None] = Lean) -> L | None:  # type: ignore[assignment]
    """``make(model)``, if the model is of the family and this gives its logits; else None."""
    found = make(model) if _looks_like_it(model) else None
    return found if found is not None and _agrees(found, model) else None


def _looks_like_it(model: Any) -> bool:
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        config.model_type in FAMILY
        and config.hidden_act == "silu"
        and rope in FIXED_ROPE
        and (window is None or window >= config.max_position_embeddings)
        and all(type(m) is torch.nn.Linear for m in model.modules() if hasattr(m, "in_features"))
    )


def _agrees(found: Lean, model: Any) -> bool:
    """On a dozen tokens that say nothing, read at once and with the last one stepped."""
    ids = tuple((7 * i + 3) % model.config.vocab_size for i in range(12))
    expected = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -2:].float()
    slots = found.slots(FLOOR, len(ids), 1)
    read = found.read([ids[:-1]])
    slots.seat(torch.arange(FLOOR), read, torch.zeros(FLOOR, dtype=torch.long))
    last = torch.full((FLOOR,), len(ids) - 1, device=model.device)
    stepped = found.step(slots, torch.full_like(last, ids[-1]), last, [(0, FLOOR, len(ids))])
    seen = torch.stack([read.logits[0], stepped[0]]).float()
    limit = TOLERANCE.get(model.dtype, 0.3) * max(1.0, float(expected.abs().max()))
    return bool((seen - expected).abs().max() <= limit)
