"""Llama-like models on one CPU thread through kernels of our own (``kernels/decode.cpp``), in float32.

Built on first use by the compiler that is at hand, for the processor that is at hand. Nothing needs them: without a
compiler the same model goes through ``_lean``. What they give is held against the model's own logits before they are
used.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.resources
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from selftaught.engines._cache import STEP, Band, Read
from selftaught.engines._lean import Lean, lean
from selftaught.errors import ModelError

SOURCE = "decode.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
WITHOUT = "Install one (CXX names another), or do without: engine.kernels=false"
SECONDS = 120.0  # that a compiler may take
PROMPT = np.dtype([("keys", np.int64), ("values", np.int64), ("length", np.int64), ("room", np.int64)])

Pointer, Count = ctypes.c_void_p, ctypes.c_int64


class _Layer(ctypes.Structure):
    NAMES = ("before", "after", "qkv", "qkv_bias", "out", "gate_up", "down", "query_norm", "key_norm")
    _fields_ = [(name, Pointer) for name in NAMES]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, Count) for name in ("layers", "hidden", "heads", "kv", "size", "inner", "vocabulary")),
        *((name, Pointer) for name in ("embed", "norm", "head", "cosine", "sine", "zeros", "each")),
        ("eps", ctypes.c_float),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, Count) for name in ("rows", "room")),
        *((name, Pointer) for name in ("ids", "positions", "slots", "prompts", "keys", "values", "scratch", "logits")),
    ]


# ---------------------------------------------------------------- building


@lru_cache(maxsize=1)
def built() -> str:
    """The path of the kernels, built for this process and its workers. Raises ModelError that says why they cannot be.

    In a folder that nobody else can write to, gone when the process ends: a second is less than a cache would ask for.
    """
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None or os.name != "posix":
        raise ModelError("The sampler's kernels need a C++ compiler, and there is none on the PATH.", hint=WITHOUT)
    source = (importlib.resources.files("selftaught.engines") / "kernels" / SOURCE).read_text(encoding="utf-8")
    try:
        folder = Path(tempfile.mkdtemp(prefix="selftaught-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        written, made = folder / SOURCE, str(folder / "decode.so")
        written.write_text(source, encoding="utf-8")
        subprocess.run([compiler, *FLAGS, str(written), "-o", made], capture_output=True, check=True, timeout=SECONDS)
        library(made)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        told = said.decode(errors="replace").strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{compiler} could not build the sampler's kernels: {told[0]}", hint=WITHOUT) from error
    return made


@lru_cache(maxsize=1)
def available() -> str:
    """``built``, or "" where it cannot be; tried once."""
    try:
        return built()
    except ModelError:
        return ""


@lru_cache(maxsize=1)
def library(path: str) -> Any:
    found = ctypes.CDLL(path)
    found.step.argtypes, found.step.restype = [Pointer, Pointer], None
    found.floats_needed.argtypes, found.floats_needed.restype = [Pointer, Count, Count], Count
    found.panel.restype = found.lanes.restype = Count
    return found


# ---------------------------------------------------------------- prompts and rows


class Prompts(Read):
    """Prompts read once, as the kernels want them: keys [P, layers, heads, size, room], values with the last two
    turned; ``table`` says where each stands."""

    def __init__(self, read: Read, lengths: Sequence[int]) -> None:
        super().__init__(read.logits, [], [])
        self.stored_keys = torch.stack([k.transpose(2, 3) for k in read.keys], 1).contiguous()
        self.stored_values = torch.stack(read.values, 1).contiguous()
        every = np.arange(len(lengths)) * self.stored_keys[0].numel() * 4
        self.table = np.zeros(len(lengths), PROMPT)
        self.table["keys"] = self.stored_keys.data_ptr() + every
        self.table["values"] = self.stored_values.data_ptr() + every
        self.table["length"], self.table["room"] = lengths, self.stored_keys.shape[-1]


class Rows:
    """Keys and values of each row's own tokens, and which prompt stands before them. Rows trade places by number."""

    def __init__(self, native: Native, count: int, width: int, most: int) -> None:
        self.count, self.width, room = count, -(-width // STEP) * STEP, -(-most // STEP) * STEP
        shape = count, native.shape.layers, native.shape.kv
        self.keys = torch.zeros(*shape, native.size, room)
        self.values = torch.zeros(*shape, room, native.size)
        self.prompts = np.zeros(count, PROMPT)
        self.home = np.arange(count)
        self.held: list[Read | None] = [None] * count
        needed = native.library.floats_needed(ctypes.byref(native.shape), count, self.width + room + 2 * STEP)
        self.scratch = torch.zeros(needed)
        self.logits = torch.zeros(count, native.columns)
        self.given = _Step(count, room, keys=self.keys.data_ptr(), values=self.values.data_ptr(),
                           scratch=self.scratch.data_ptr(), logits=self.logits.data_ptr(),
                           slots=self.home.ctypes.data, prompts=self.prompts.ctypes.data)  # fmt: skip

    def seat(self, slots: torch.Tensor, read: Read, which: torch.Tensor) -> None:
        assert isinstance(read, Prompts)
        self.prompts[slots.numpy()] = read.table[which.numpy()]
        for slot in slots.tolist():
            self.held[slot] = read

    def move(self, to: torch.Tensor, source: torch.Tensor, width: int) -> None:
        a, b = to.numpy(), source.numpy()
        self.prompts[a], self.home[a], self.home[b] = self.prompts[b], self.home[b], self.home[a]
        for new, old in zip(a.tolist(), b.tolist(), strict=True):
            self.held[new] = self.held[old]


# ---------------------------------------------------------------- the decoder


class Native(Lean):
    name, banded, floor = "kernels", False, 1

    def __init__(self, model: Any, kernels: Any) -> None:
        super().__init__(model)
        self.library = kernels
        panel = kernels.panel()
        each = [_panels(layer, panel) for layer in self.layers]
        inner = model.config.intermediate_size
        self.columns = -(-len(self.head) // panel) * panel
        zeros = torch.zeros(max(self.columns, 2 * inner + panel, (self.heads + 2 * self.kv_heads) * self.size + panel))
        own = {"embed": self.embed.contiguous(), "norm": self.norm, "head": _panel(self.head, panel),
               "cosine": self.cos.contiguous(), "sine": self.sin.contiguous(), "zeros": zeros}  # fmt: skip
        table = (_Layer * len(each))(*(_Layer(**_addresses(t)) for t in each))
        self.kept = own, each, table  # as long as the kernels may read them
        self.shape = _Model(len(each), self.embed.shape[1], self.heads, self.kv_heads, self.size, inner, len(self.head),
                            each=ctypes.addressof(table), eps=self.eps, **_addresses(own))  # fmt: skip

    def slots(self, count: int, width: int, most: int) -> Any:
        return Rows(self, count, width, most)

    def read(self, prompts: Sequence[tuple[int, ...]]) -> Read:
        return Prompts(super().read(prompts), [len(p) for p in prompts])

    def step(self, slots: Any, ids: torch.Tensor, positions: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
        given: _Step = slots.given
        given.rows, given.ids, given.positions = len(ids), ids.data_ptr(), positions.data_ptr()
        self.library.step(ctypes.byref(self.shape), ctypes.byref(given))
        logits: torch.Tensor = slots.logits[: len(ids), : len(self.head)]
        return logits


def _panel(weight: torch.Tensor, panel: int) -> torch.Tensor:
    """A weight [columns, depth] as [columns / panel, depth, panel], filled up with zeros."""
    padded = functional.pad(weight, (0, 0, 0, -len(weight) % panel))
    return padded.view(-1, panel, weight.shape[1]).transpose(1, 2).contiguous()


def _panels(layer: Any, panel: int) -> dict[str, torch.Tensor]:
    bias = layer.qkv_bias if layer.qkv_bias is not None else torch.zeros(len(layer.qkv))
    found = {"before": layer.before, "after": layer.after, "qkv": _panel(layer.qkv, panel),
             "qkv_bias": functional.pad(bias, (0, -len(bias) % panel)), "out": _panel(layer.out.t(), panel),
             "gate_up": _panel(layer.gate_up, panel), "down": _panel(layer.down.t(), panel)}  # fmt: skip
    norms = {"query_norm": layer.query_norm, "key_norm": layer.key_norm}
    return found | {name: weight for name, weight in norms.items() if weight is not None}


def _addresses(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: t.data_ptr() for name, t in tensors.items()}


@torch.inference_mode()
def native(model: Any, path: str) -> Native | None:
    """``model`` as a ``Native``, if it is of the family, in float32 on a CPU, and the kernels give its logits."""
    if model.dtype != torch.float32 or model.device.type != "cpu":
        return None
    kernels = library(path)
    return lean(model, lambda found: Native(found, kernels) if _plain(found, kernels) else None)


def _plain(model: Any, kernels: Any) -> bool:
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    biased = any(getattr(x, "bias", None) is not None for layer in model.model.layers
                 for x in (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj))  # fmt: skip
    return size % kernels.lanes() == 0 and not biased
