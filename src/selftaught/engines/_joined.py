"""An adapter that was trained on a model with an adapter: both as one, on the base."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from selftaught.engines._folders import ADAPTER, ADAPTER_WEIGHTS
from selftaught.errors import ModelError

KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
UNEVEN = ("use_rslora", "rank_pattern", "alpha_pattern")  # what would give layers scales of their own

Pair = tuple[torch.Tensor, torch.Tensor]  # A [rank, inputs], B [outputs, rank]


def joined(own: Mapping[str, Pair], scale: float, folder: Path) -> dict[str, Pair]:
    """Layers' adapters that add ``scale`` times ``own`` and what the adapter in ``folder`` adds, with a scale of 1.

    The rank is the sum of both, in every layer of either. Raises ModelError where the other is no plain LoRA.
    """
    config = json.loads((folder / ADAPTER).read_text())
    other = _pairs(folder)
    if other is None or any(config.get(name) for name in UNEVEN):
        raise ModelError(
            f"The adapter in {folder} is no plain LoRA, so none that was trained on top of it can be kept.",
            hint="Merge it into its base first (PEFT: merge_and_unload), and begin with the merged model.",
        )
    theirs = config["lora_alpha"] / config["r"]
    found = {}
    for name in sorted({*own, *other}):
        a, b = _or_none(own, name, other[name] if name in other else own[name])
        c, d = _or_none(other, name, (a, b))
        found[name] = torch.cat([c, a]), torch.cat([theirs * d, scale * b], 1)
    return found


def _pairs(folder: Path) -> dict[str, Pair] | None:
    """What each layer has; None where something else is in there, too."""
    from safetensors.torch import load_file

    weights = {k: w.float() for k, w in load_file(folder / ADAPTER_WEIGHTS).items()}
    names = [KEY.fullmatch(key) for key in weights]
    if not all(names):
        return None
    layers = sorted({match[1] for match in names if match})
    return {n: (weights[key(n, "A")], weights[key(n, "B")]) for n in layers}


def key(name: str, kind: str) -> str:
    return f"base_model.model.{name}.lora_{kind}.weight"


def _or_none(pairs: Mapping[str, Pair], name: str, like: Pair) -> Pair:
    """A layer's adapter; where it has none, one of these adapters' rank that adds nothing."""
    if name in pairs:
        return pairs[name]
    rank = len(next(iter(pairs.values()))[0])
    return like[0].new_zeros(rank, like[0].shape[1]), like[1].new_zeros(like[1].shape[0], rank)
