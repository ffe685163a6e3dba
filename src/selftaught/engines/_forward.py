"""Any causal language model of transformers through its own forward, with our slots as its cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any
from weakref import proxy

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from selftaught.engines._cache import FLOOR, Band, Read, Slots
from selftaught.errors import ModelError


class Forward:
    name, banded, floor = "transformers", False, FLOOR

    def __init__(self, model: Any) -> None:
        self.model = proxy(model)  # a model that nobody else holds may go
        text = model.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or []
        self.window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        self.mixed = "sliding_attention" in kinds and "full_attention" in kinds
        if kinds and not set(kinds) <= {"sliding_attention", "full_attention"}:
            raise ModelError(
                f"Layers of the kind {sorted(set(kinds))} keep a state that the sampler does not know.",
                hint="Serve such a model from an endpoint.",
            )
        if kinds and "sliding_attention" not in kinds:
            self.window = None

    def together(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Neighbours of one length, which need no padding."""
        return [list(group) for _, group in groupby(range(len(prompts)), key=lambda i: len(prompts[i]))]

    def read(self, prompts: Sequence[tuple[int, ...]]) -> Read:
        """Prompts of one length. Of longer ones some logits more are made than are needed, of short ones some rows, so
        that no product is of fewer than ``FLOOR`` rows."""
        cache, short = DynamicCache(), len(prompts[0]) < FLOOR
        padded = [*prompts, *[prompts[0]] * max(0, FLOOR - len(prompts))] if short else prompts
        out = self.model(
            input_ids=torch.tensor(padded, device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=min(FLOOR, len(prompts[0])),
        )
        layers: list[Any] = list(cache.layers)
        return Read(
            out.logits[: len(prompts), -1], [layer.keys for layer in layers], [layer.values for layer in layers]
        )

    def slots(self, count: int, width: int, most: int) -> Slots:
        return Slots(count, width)

    def step(self, slots: Slots, ids: torch.Tensor, positions: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
        """As ``Lean.step``; all rows attend to the widest band's width."""
        width = max(w for _, _, w in bands)
        cache = Cache(layers=[_Layer(k, v, positions, width) for k, v in zip(slots.keys, slots.values, strict=True)])
        out = self.model(
            input_ids=ids[:, None],
            attention_mask=self._mask(positions, width),
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _mask(self, positions: torch.Tensor, width: int) -> Any:
        """[B, 1, 1, width] to add to the scores; for models of two kinds of layers one for each kind."""
        at = torch.arange(width, device=positions.device)
        full = at > positions[:, None]
        if self.window is None:
            return self._added(full)
        sliding = self._added(full | (at <= positions[:, None] - self.window))
        return {"full_attention": self._added(full), "sliding_attention": sliding} if self.mixed else sliding

    def _added(self, hidden: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(hidden.shape, dtype=self.model.dtype, device=hidden.device)
        return zeros.masked_fill_(hidden, torch.finfo(self.model.dtype).min)[:, None, None]


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's slots, as transformers asks for them: each row writes at its own position."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, width: int) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.positions, self.width = positions, width
        self.rows = torch.arange(len(positions), device=positions.device)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys[self.rows, :, self.positions] = key_states[:, :, 0]
        self.values[self.rows, :, self.positions] = value_states[:, :, 0]
        rows = len(self.rows)
        return self.keys[:rows, :, : self.width], self.values[:rows, :, : self.width]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        return None

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.width, 0

    def get_seq_length(self) -> int:
        return self.width - 1

    def get_max_length(self) -> int:
        return self.width
