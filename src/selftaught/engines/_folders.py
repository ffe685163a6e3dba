"""Find and check folders of models and adapters: safetensors only, no code of theirs, every refusal with its reason.

An adapter names its base in ``adapter_config.json``. What we train names it so that it can be found again, on another
machine too: ``bundled:NAME``, a hub id with its revision, or else the base's own path.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import re
from pathlib import Path
from typing import Any

from selftaught.errors import ModelError
from selftaught.store import folder_digest
from selftaught.types import Checkpoint, digest

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SNAPSHOT = re.compile(r"models--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]+)$")  # in the hub's cache


# ---------------------------------------------------------------- models


def bundled_root() -> Path:
    return Path(str(importlib.resources.files("selftaught"))) / "bundled"


def resolve(model: str) -> Path:
    """The local folder behind a path, ``bundled:NAME`` or a hub id (downloaded once, safetensors and JSON only)."""
    if model.startswith("bundled:"):
        return _bundled(model.removeprefix("bundled:"))
    path = Path(model).expanduser()
    if path.exists() or model.startswith((".", "/", "~")) or model.partition("@")[0].count("/") != 1:
        return path
    return _from_hub(model)


def _bundled(name: str) -> Path:
    names = sorted(p.name for p in bundled_root().iterdir() if (p / "config.json").is_file())
    if name not in names:
        raise ModelError(f"There is no bundled model {name!r}.", hint=f"Bundled: {', '.join(names) or 'none built'}.")
    return bundled_root() / name


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{model!r} is not a folder here, and the hub did not give it: {str(error).splitlines()[0]}",
            hint="Check the spelling or your network (and HF_TOKEN for gated models), or give a local model folder.",
        ) from error


def check_folder(folder: Path) -> None:
    """Raises ModelError unless ``folder`` holds a config, safetensors weights and a tokenizer we may load."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(f"The model folder {folder} {what}.", hint="Give a folder with config.json and *.safetensors.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ModelError(f"The model folder {folder} cannot be read.", hint="Check its permissions.")
    model_config(folder)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and _json(folder / name).get("auto_map"):
            raise ModelError(
                f"{folder} wants to run its own code (auto_map in {name}).",
                hint="Models that need trust_remote_code are not loaded; use one that transformers knows.",
            )
    _check_weights(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json).",
            hint="Save it there: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )


def model_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json.", hint="Give the folder that save_pretrained wrote.")
    config = _json(path)
    if "model_type" not in config:
        raise ModelError(
            f"{path} is not a model config (no model_type).", hint="Give the folder that save_pretrained wrote."
        )
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", hint="Restore it or download the model again.") from error
    return found


def _check_weights(folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"{folder} holds pickle weights ({', '.join(pickles[:3])}), which can run code when loaded.",
                hint="Convert them on a machine you can lose: model.save_pretrained(folder) writes safetensors.",
            )
        raise ModelError(
            f"{folder} has no weights (*.safetensors).", hint="Give the folder that save_pretrained wrote."
        )
    for path in weights:
        _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    """The header must be plain JSON of a sane size that fits the file: refuses pickles and archives by content."""
    size = path.stat().st_size
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        start = f.read(1)
    if size < 10 or length > min(size - 8, 100_000_000) or start != b"{":
        raise ModelError(
            f"{path} is not a safetensors file (damaged, cut short, or a pickle under that name).",
            hint="Download or save the model again.",
        )


# ---------------------------------------------------------------- adapters


def check_adapter(folder: Path) -> dict[str, Any]:
    """The config of a LoRA adapter. Raises ModelError unless its weights are safetensors; PEFT alone takes a pickle."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"The adapter {folder} has no {ADAPTER_WEIGHTS}.",
            hint="Save it again: model.save_pretrained(folder) writes safetensors.",
        )
    _check_safetensors(folder / ADAPTER_WEIGHTS)
    config = _json(folder / ADAPTER)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"The adapter {folder} is of the type {config.get('peft_type')!r}.",
            hint="Only LoRA adapters can be merged and trained on. Merge it yourself and give the merged folder.",
        )
    if config.get("megatron_config"):
        raise ModelError(
            f"The adapter {folder} names a Python module to import (megatron_core in {ADAPTER}).",
            hint="Set megatron_config to null there: models loaded here are not split by Megatron.",
        )
    return config


def base_of(folder: Path) -> Path:
    """The folder of an adapter's base model. Raises ModelError that says what is missing."""
    config = check_adapter(folder)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"The adapter {folder} does not name its base model.",
            hint=f"Write its folder or hub id as base_model_name_or_path in {folder / ADAPTER}.",
        )
    pinned = f"{name}@{revision}" if isinstance(revision, str) and revision and "@" not in name else name
    try:
        base = resolve(name if Path(name).expanduser().exists() else pinned)
        check_folder(base)
    except ModelError as error:
        raise ModelError(
            f"The adapter {folder} needs its base model {name!r}. {error.message}",
            hint=f"{error.hint} Or name another place as base_model_name_or_path in {folder / ADAPTER}.",
        ) from error
    return base


def name_base(adapter: Path, base: Path) -> None:
    """Write the base's name into a saved adapter: one that any machine finds, where there is one."""
    config = _json(adapter / ADAPTER)
    name, config["revision"] = portable_name(base)
    config["base_model_name_or_path"] = name
    (adapter / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def portable_name(folder: Path) -> tuple[str, str | None]:
    """(``bundled:NAME``, a hub id or the absolute path; the hub's revision)."""
    absolute = Path(os.path.abspath(folder))
    if absolute.parent == Path(os.path.abspath(bundled_root())):
        return f"bundled:{absolute.name}", None
    if found := SNAPSHOT.search(absolute.as_posix()):
        return found["name"].replace("--", "/", 1), found["revision"]
    return str(absolute), None


# ---------------------------------------------------------------- checkpoints


def open_checkpoint(model: str) -> Checkpoint:
    """The checkpoint behind a model's name; an adapter's folder opens as the adapter on its base.

    An adapter's tokenizer is its base's.
    """
    folder = resolve(model)
    if (folder / ADAPTER).is_file():
        others = [p.name for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_model")]
        if others:
            raise ModelError(
                f"{folder} holds a model ({others[0]}) and an adapter ({ADAPTER}).",
                hint="Move one of the two to a folder of its own, so that it is clear what is meant.",
            )
        base = base_of(folder)
        own = digest(weights_digest(base), folder_digest(folder, [ADAPTER, ADAPTER_WEIGHTS]))
        return Checkpoint(own, str(base), str(folder))
    check_folder(folder)
    return Checkpoint(weights_digest(folder), str(folder))


def weights_digest(folder: Path) -> str:
    """Digest of what decides an answer: weights, config, tokenizer and chat template."""
    names = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", ".json", ".jinja", ".model")]
    return folder_digest(folder, names)
