"""Find, check and load model folders: safetensors only, no remote code, every refusal with its reason."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from selftaught.errors import ModelError
from selftaught.store import folder_digest
from selftaught.types import Checkpoint, Message, digest

TEMPLATE_SECONDS = 5.0  # a chat template may take for one prompt
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")


# ---------------------------------------------------------------- folders


def bundled_root() -> Path:
    return Path(str(importlib.resources.files("selftaught"))) / "bundled"


def resolve(model: str) -> Path:
    """The local folder behind a path, ``bundled:NAME`` or a hub id (downloaded once, safetensors and JSON only)."""
    if model.startswith("bundled:"):
        return _bundled(model.removeprefix("bundled:"))
    path = Path(model).expanduser()
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
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
    _config(folder)
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


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json.", hint="Give the folder that save_pretrained wrote.")
    config = _json(path)
    if "model_type" not in config:
        raise ModelError(
            f"{path} is not a model config (no model_type).", hint="Is this a PEFT adapter? Merge it first."
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


def check_adapter(folder: Path) -> None:
    """Raises ModelError unless a PEFT adapter's weights are safetensors; PEFT alone would take a pickle."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter {folder} has no adapter_model.safetensors.",
            hint="Save it again: model.save_pretrained(folder) writes safetensors.",
        )
    _check_safetensors(folder / "adapter_model.safetensors")


def open_checkpoint(model: str) -> Checkpoint:
    folder = resolve(model)
    check_folder(folder)
    return Checkpoint(weights_digest(folder), str(folder))


def weights_digest(folder: Path) -> str:
    """Digest of what decides an answer: weights, config, tokenizer and chat template."""
    names = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", ".json", ".jinja", ".model")]
    return folder_digest(folder, names)


# ---------------------------------------------------------------- tokens


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a body that takes longer. Only the main thread can be interrupted; elsewhere no bound."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it ran for more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TextTokens:
    """``Tokens`` over a transformers tokenizer."""

    def __init__(self, tokenizer: Any, context: int, *, chat: bool, form: str, step_by_step: str) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.chat = chat and bool(tokenizer.chat_template)
        self.form = form
        self.step_by_step = step_by_step
        self.has_bos = tokenizer.bos_token_id is not None
        self.eos = tokenizer.eos_token_id
        self.digest = digest(sorted(tokenizer.get_vocab().items()))[:16]

    def render(self, messages: Sequence[Message], form: str) -> str:
        if not messages:
            return ""
        if form == "raw":
            return str(messages[-1]["content"])
        if self.chat:
            return self._render_chat([dict(m) for m in messages], form)
        turns = []
        for message, following in zip(messages, [*messages[1:], None], strict=True):
            answer = following["content"] if following and following["role"] == "assistant" else None
            if message["role"] == "user":
                turns.append(self._turn(message["content"], answer, form))
            elif message["role"] == "system":
                turns.append(message["content"])
        return "\n\n".join(turns)

    def _render_chat(self, messages: list[dict[str, str]], form: str) -> str:
        if form == "cot":
            messages[-1]["content"] += "\n" + self.step_by_step
        try:
            with _deadline(TEMPLATE_SECONDS):
                return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is somebody's program: whatever it does wrong, it is the model's fault
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"The model's chat template cannot render a prompt: {first}",
                hint="Mend the template, or do without it: prompt.use_chat_template=false",
            ) from error

    def _turn(self, question: str, answer: str | None, form: str) -> str:
        before, _, after = self.form.partition("{question}")
        asked = before + question + after
        if answer is not None:
            return f"{asked} {answer.lstrip()}"
        return f"{asked} {self.step_by_step}" if form == "cot" else asked

    def encode(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer.encode(text, add_special_tokens=False) if text else []
        bos = self.tokenizer.bos_token_id
        start = [bos] if bos is not None and ids[:1] != [bos] else []
        return tuple(start + ids) or self._nothing()

    def _nothing(self) -> tuple[int, ...]:
        """No prompt, no BOS: the end token, which separates documents in pretraining."""
        if self.eos is None:
            raise ModelError(
                "The tokenizer has neither a begin nor an end token, so nothing can be sampled unprompted.",
                hint="Set bos_token or eos_token in tokenizer_config.json, or train.replay=0.",
            )
        return (self.eos,)

    def encode_completion(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return (*ids, self.eos) if self.eos is not None else tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def load_tokens(folder: Path, *, chat: bool, form: str, step_by_step: str) -> TextTokens:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # any of a dozen types, by tokenizer class: one boundary, named
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}", hint="Save it again.") from error
    config = _config(folder)
    text = config.get("text_config", config)
    context = int(text.get("max_position_embeddings") or text.get("n_positions") or 2048)
    return TextTokens(tokenizer, context, chat=chat, form=form, step_by_step=step_by_step)


def load_model(checkpoint: Checkpoint, dtype: str, device: str) -> Any:
    """An ``AutoModelForCausalLM`` in eval mode, the adapter (if any) merged into the weights for speed."""
    import torch
    from transformers import AutoModelForCausalLM

    quieten()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.model,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention(checkpoint.model),
        )
    except Exception as error:  # transformers raises a dozen types for a bad folder: one boundary, named
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model in {checkpoint.model} cannot be loaded: {first}",
            hint="Does AutoModelForCausalLM.from_pretrained(folder) load it?",
        ) from error
    if checkpoint.adapter:
        from peft import PeftModel

        check_adapter(Path(checkpoint.adapter))
        model = PeftModel.from_pretrained(model, checkpoint.adapter).merge_and_unload()
    return model.to(device).eval()


def quieten() -> None:
    """Our own view shows progress; transformers' bars and notices would tear it."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def attention(folder: str) -> str | None:
    """ "eager" on CPU for tiny models, where it trains 1.5 times as fast (docs/LOG.md); else transformers' choice."""
    import torch

    size = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))
    return "eager" if size < 40_000_000 and not torch.cuda.is_available() else None
