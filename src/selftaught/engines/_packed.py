"""Forward and backward of Llama-like models over a pack of cells, each with the LoRA adapter that it belongs to.

A cell is what one adapter runs at once: a few sequences, padded on the right to one width. Products with the frozen
weights see a pack's tokens flat; adapters and attention see cells, those of one shape together. Only adapters get a
gradient, so the backward is written out, beside the forward: nothing is made that no adapter needs.

``dtype`` is that of products with frozen matrices; all else is float32. The figures of a cell depend on its own shape
alone, so they are the same, bit for bit on a CPU, whatever else is in the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional

from selftaught.engines._adapters import Adapters
from selftaught.engines._lean import Layer, Lean
from selftaught.engines._product import Back, Group, Live, Product
from selftaught.types import Example

LONG = 384  # a wider attention goes by torch's own, which keeps no scores
ROWS = 64  # tokens and labels are filled up to a multiple of these: a matrix library pays for every size it meets
LOGITS = 1 << 20  # made at once


@dataclass(frozen=True)
class Cell:
    """``examples`` of adapter ``row``, in a table of ``shape`` (sequences, width) whose last sequences may be empty.

    ``total`` is what their loss is divided by: the completion tokens of the whole step.
    """

    row: int
    examples: tuple[Example, ...]
    shape: tuple[int, int]
    total: int = 1

    @property
    def tokens(self) -> int:
        return self.shape[0] * self.shape[1]


class Pack:
    """Cells as tensors, those of one shape side by side.

    ``at``: the places whose next token carries loss, of which ``labels`` are real; ``target`` and ``weight`` of that
    token. ``spans``: which of those belong to each cell.
    """

    def __init__(self, cells: Sequence[Cell], device: Any) -> None:
        ids: list[int] = []
        positions: list[int] = []
        labels: list[tuple[int, int, float]] = []
        self.spans: list[slice] = []
        self.groups: list[Group] = []
        for shape, some in groupby(cells, key=lambda c: c.shape):
            first, begin = len(self.spans), len(ids)
            for cell in some:
                start, count = len(ids), len(labels)
                for number, example in enumerate(cell.examples):
                    ids += [0] * (start + number * shape[1] - len(ids))
                    labels += _labels(example, len(ids), cell.total)
                    ids += example.prompt_ids + example.completion_ids
                ids += [0] * (start + cell.tokens - len(ids))
                positions += [*range(shape[1])] * shape[0]
                self.spans.append(slice(count, len(labels)))
            self.groups.append(Group(slice(first, len(self.spans)), slice(begin, len(ids)), shape))
        self.tokens, self.labels = len(ids), len(labels)
        ids += [0] * (-len(ids) % ROWS)
        positions += [0] * (len(ids) - len(positions))
        labels += [(0, 0, 0.0)] * (-len(labels) % ROWS or ROWS * (not labels))
        at, target, weight = zip(*labels, strict=True)
        self.ids, self.positions = torch.tensor(ids, device=device), torch.tensor(positions, device=device)
        self.at, self.target = torch.tensor(at, device=device), torch.tensor(target, device=device)[:, None]
        self.weight = torch.tensor(weight, device=device)


def _labels(example: Example, first: int, total: int) -> list[tuple[int, int, float]]:
    """(place before it, token, weight) of each completion token that carries loss."""
    begin = first + len(example.prompt_ids) - 1
    weight = example.weight / max(1, total)
    told = [(begin + i, token, weight) for i, token in enumerate(example.completion_ids)] if weight else []
    return told if example.prompt_ids else told[1:]  # nothing stands before the first token


# ---------------------------------------------------------------- the model


class Frozen:
    """A model's own weights, as products take them."""

    def __init__(self, model: Lean, dtype: torch.dtype) -> None:
        self.lean, self.dtype = model, dtype
        self.embed, self.head, self.norm = model.embed.detach(), model.head.detach().to(dtype), model.norm.float()
        self.cos, self.sin = model.cos.float()[:, None], model.sin.float()[:, None]
        self.layers = [_cast(layer, dtype) for layer in model.layers]


def _cast(layer: Layer, dtype: torch.dtype) -> dict[str, Any]:
    """Matrices as [outputs, inputs] and biases in ``dtype``; what norms multiply by in float32."""
    found = {name: getattr(layer, name) for name in vars(layer)} | {"out": layer.out.t(), "down": layer.down.t()}
    small = ("before", "after", "query_norm", "key_norm")
    return {k: t if t is None else t.detach().to(torch.float32 if k in small else dtype) for k, t in found.items()}


class Packed:
    """``frozen`` under the adapters of a table."""

    def __init__(self, frozen: Frozen, adapters: Adapters) -> None:
        self.frozen, self.adapters, self.lean = frozen, adapters, frozen.lean
        self.device = frozen.embed.device
        self.layers = [Block(i, w, frozen.lean, adapters) for i, w in enumerate(frozen.layers)]

    @torch.no_grad()
    def gradients(self, cells: Sequence[Cell]) -> tuple[list[float], torch.Tensor]:
        """Per cell its loss (a sum over tokens, by ``total``), and that loss's gradient by its adapter, [cells, P]."""
        pack = Pack(cells, self.device)
        live = Live(self.adapters, [c.row for c in cells], learning=True)
        assert live.gradients is not None
        x, turn = functional.embedding(pack.ids, self.frozen.embed).float(), self._turn(pack)
        backs: list[Back] = []
        for layer in self.layers:
            x, back = layer(x, pack, live, turn)
            backs.append(back)
        losses, dx = self._losses(x, pack, learning=True)
        for back in reversed(backs):
            dx = back(dx)
            backs.pop()  # and what it holds
        found = (losses * pack.weight).double().cpu().numpy()
        return [float(found[span].sum()) for span in pack.spans], live.gradients

    @torch.no_grad()
    def logprobs(self, cells: Sequence[Cell]) -> list[list[float]]:
        """Per cell the natural-log probabilities of its completion tokens, one sequence after the other."""
        pack = Pack(cells, self.device)
        live = Live(self.adapters, [c.row for c in cells])
        x, turn = functional.embedding(pack.ids, self.frozen.embed).float(), self._turn(pack)
        for layer in self.layers:
            x, _ = layer(x, pack, live, turn)
        found = self._losses(x, pack, learning=False)[0].double().cpu().numpy()
        return [(-found[span]).tolist() for span in pack.spans]

    def _turn(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [tokens, 1, head size]."""
        return self.frozen.cos[pack.positions], self.frozen.sin[pack.positions]

    def _losses(self, x: torch.Tensor, pack: Pack, learning: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(Negative log-likelihoods of the targets, the gradient of their weighted sum by x if ``learning``.)

        The head is frozen, so its gradient is made with the logits and these are kept no longer.
        """
        h, back = _rms(x[pack.at], self.frozen.norm, self.lean.eps)
        dh, losses, dtype = torch.empty_like(h), h.new_empty(len(h)), self.frozen.dtype
        rows = max(ROWS, LOGITS // len(self.frozen.head) // ROWS * ROWS)
        for part in (slice(i, i + rows) for i in range(0, len(h), rows)):
            logits = functional.linear(h[part].to(dtype), self.frozen.head).float()
            p = torch.softmax(logits, -1)
            losses[part] = logits.amax(-1) - p.amax(-1).log() - logits.gather(1, pack.target[part])[:, 0]
            if learning:
                p.scatter_add_(1, pack.target[part], p.new_full((len(p), 1), -1.0))
                torch.mul(torch.mm(p.to(dtype), self.frozen.head), pack.weight[part, None], out=dh[part])
        dx = torch.zeros_like(x)
        if learning:
            dx[pack.at[: pack.labels]] = back(dh)[: pack.labels]
        return losses, dx


class Block:
    """One decoder layer: norms, attention, and four products, each with its adapters."""

    def __init__(self, number: int, weights: dict[str, Any], model: Lean, adapters: Adapters) -> None:
        self.model, self.first = model, number == 0
        self.before, self.after = weights["before"], weights["after"]
        self.query_norm, self.key_norm = weights["query_norm"], weights["key_norm"]
        q, kv, inner = model.heads * model.size, model.kv_heads * model.size, len(weights["gate_up"]) // 2
        parts = {
            "qkv": {"self_attn.q_proj": q, "self_attn.k_proj": kv, "self_attn.v_proj": kv},
            "out": {"self_attn.o_proj": len(weights["out"])},
            "gate_up": {"mlp.gate_proj": inner, "mlp.up_proj": inner},
            "down": {"mlp.down_proj": len(weights["down"])},
        }
        self.qkv, self.out, self.gate_up, self.down = (
            Product(
                weights[name],
                weights[f"{name}_bias"],
                [(f"model.layers.{number}.{n}", size) for n, size in joined.items()],
                adapters,
            )
            for name, joined in parts.items()
        )

    def __call__(
        self, x: torch.Tensor, pack: Pack, live: Live, turn: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, Back]:
        eps = self.model.eps
        h, norm_back = _rms(x, self.before, eps)
        qkv, qkv_back = self.qkv(h, pack.groups, live)
        seen, attention_back = self._attend(qkv, pack, turn)
        y, out_back = self.out(seen, pack.groups, live)
        x = x + y
        h, after_back = _rms(x, self.after, eps)
        both, both_back = self.gate_up(h, pack.groups, live)
        product, gate_back = _gated(both)
        y, down_back = self.down(product, pack.groups, live)

        def back(dx: torch.Tensor) -> torch.Tensor:
            dx = dx + after_back(both_back(gate_back(down_back(dx))))
            dseen = out_back(dx)
            if not self.first:
                return dx + norm_back(qkv_back(attention_back(dseen)))
            if self.qkv.parts:
                qkv_back(attention_back(dseen), onward=False)
            return dx

        return x + y, back

    def _attend(
        self, qkv: torch.Tensor, pack: Pack, turn: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, Back]:
        """What every token sees, [tokens, heads * size], from [tokens, (heads + 2 kv_heads) * size]."""
        kv, size = self.model.kv_heads, self.model.size
        heads, both = self.model.heads, self.model.heads + kv
        every = qkv.view(len(qkv), -1, size)
        turned, turn_back = self._turned(every[:, :both], *turn)
        seen = qkv.new_zeros(len(qkv), heads, size)
        backs: list[Any] = []
        for group in pack.groups:
            at, parts = group.tokens, (turned[:, :heads], turned[:, heads:], every[:, both:])
            found, back = _attention([_apart(t[at], group, kv) for t in parts], group.shape[1])
            _join(found, seen[at], group, kv)
            backs.append(back)

        def attention_back(dseen: torch.Tensor) -> torch.Tensor:
            dseen = dseen.view(len(qkv), heads, size)
            devery = torch.zeros_like(every)
            parts = devery[:, :heads], devery[:, heads:both], devery[:, both:]
            for group, back in zip(pack.groups, backs, strict=True):
                for found, part in zip(back(_apart(dseen[group.tokens], group, kv)), parts, strict=True):
                    _join(found, part[group.tokens], group, kv)
            devery[:, :both] = turn_back(devery[:, :both])
            return devery.view(len(qkv), -1)

        return seen.view(len(qkv), -1), attention_back

    def _turned(self, both: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, Back]:
        """Queries and keys [tokens, heads + kv_heads, size], normed where the model does that, at their positions."""
        heads, half, backs = self.model.heads, self.model.size // 2, list[Back]()
        if self.query_norm is not None:
            q, q_back = _rms(both[:, :heads], self.query_norm, self.model.eps)
            k, k_back = _rms(both[:, heads:], self.key_norm, self.model.eps)
            both, backs = torch.cat([q, k], 1), [q_back, k_back]

        def back(d: torch.Tensor) -> torch.Tensor:
            d = d * cos + (d * sin).roll(half, -1)
            return torch.cat([backs[0](d[:, :heads]), backs[1](d[:, heads:])], 1) if backs else d

        return torch.addcmul(both * cos, both.roll(half, -1), sin), back


# ---------------------------------------------------------------- parts of a layer


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, Back]:
    """x over its root mean square, times ``weight``."""
    by = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()

    def back(dh: torch.Tensor) -> torch.Tensor:
        g = dh * weight
        along = (g * x).mean(-1, keepdim=True).mul_(by).mul_(by)
        return g.addcmul_(x, along, value=-1).mul_(by)

    return (x * by).mul_(weight), back


def _gated(both: torch.Tensor) -> tuple[torch.Tensor, Back]:
    """silu(gate) * up of [gate, up]."""
    gate, up = both.chunk(2, -1)
    open_ = functional.silu(gate)

    def back(d: torch.Tensor) -> torch.Tensor:
        dboth = torch.empty_like(both)
        dgate, dup = dboth.chunk(2, -1)
        torch.ops.aten.silu_backward.grad_input(d * up, gate, grad_input=dgate)
        torch.mul(d, open_, out=dup)
        return dboth

    return open_ * up, back


def _apart(tokens: torch.Tensor, group: Group, kv: int) -> torch.Tensor:
    """[sequences * kv, heads / kv * width, size] of [tokens, heads, size]: heads that share keys are one."""
    tokens = tokens.view(group.sequences, group.shape[1], kv, -1, tokens.shape[-1])
    return tokens.permute(0, 2, 3, 1, 4).reshape(group.sequences * kv, -1, tokens.shape[-1])


def _join(apart: torch.Tensor, tokens: torch.Tensor, group: Group, kv: int) -> None:
    """The way back, written to ``tokens``."""
    tokens = tokens.view(group.sequences, group.shape[1], kv, -1, tokens.shape[-1])
    tokens.permute(0, 2, 3, 1, 4).copy_(apart.view(group.sequences, kv, -1, group.shape[1], apart.shape[-1]))


def _attention(
    parts: Sequence[torch.Tensor], width: int
) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Causal attention, [n, heads * width, size] of keys and values [n, width, size]; and back to all three."""
    if width > LONG:
        return _long(parts, width)
    q, k, v = parts
    scale = float(q.shape[-1] ** -0.5)
    mask = _mask(width, q.shape[1] // width, q.device)
    p = torch.softmax(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale), -1)

    def back(d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dp = torch.bmm(d, v.transpose(1, 2))
        ds = dp.sub_((dp * p).sum(-1, keepdim=True)).mul_(p).mul_(scale)
        return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), d)

    return torch.bmm(p, v), back


@lru_cache(maxsize=64)
def _mask(width: int, heads: int, device: Any) -> torch.Tensor:
    """[heads * width, width]: 0 up to each query's position, -inf behind it."""
    return torch.full((width, width), -torch.inf, device=device).triu_(1).repeat(heads, 1)


def _long(
    parts: Sequence[torch.Tensor], width: int
) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, ...]]]:
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in parts]
        queries = leaves[0].view(len(parts[0]), -1, width, parts[0].shape[-1])
        keys, values = (t[:, None].expand(-1, queries.shape[1], -1, -1) for t in leaves[1:])
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True).flatten(1, 2)
    return seen.detach(), lambda d: torch.autograd.grad(seen, leaves, d)
