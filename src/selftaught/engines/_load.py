"""Load what a checked folder holds: its tokenizer, its weights, the adapter on top."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from selftaught.config import PromptConfig
from selftaught.engines import _folders
from selftaught.engines._memory import enough, first_line
from selftaught.engines._thoughts import Markers, markers
from selftaught.errors import ModelError, OutOfMemory
from selftaught.types import Checkpoint, Message, digest

TEMPLATE_SECONDS = 5.0  # a chat template may take for one prompt
SWITCHES = ("enable_thinking", "thinking")  # Qwen3, GLM, SmolLM3; DeepSeek-V3.1, Granite
PROMPTS = 8192  # remembered: a question is sampled and then learned from, a held-out one put to two models


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
    """``Tokens`` over a transformers tokenizer. ``width``: ids from here on have no embedding in the model."""

    def __init__(self, tokenizer: Any, context: int, prompt: PromptConfig, width: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.prompt = prompt
        self.width = width
        self.chat = prompt.use_chat_template and bool(tokenizer.chat_template)
        self.has_bos = tokenizer.bos_token_id is not None
        self.eos = tokenizer.eos_token_id
        self.digest = digest(sorted(tokenizer.get_vocab().items()))[:16]
        self._switch = _thinking_switch(tokenizer, prompt, self.chat)
        self._puts_a_space = self._first_piece("a").startswith(("▁", "Ġ"))
        self._markers = _thoughts_of(tokenizer, prompt)
        self._special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._shown = self._special & set(map(tokenizer.get_vocab().get, self._markers or ()))
        self._opened_by = lru_cache(maxsize=4096)(self._leaves_off_in_thoughts)
        self._rendered = lru_cache(maxsize=PROMPTS)(self._render)
        self._encoded = lru_cache(maxsize=PROMPTS)(self._encode)

    def facts(self) -> dict[str, bool | str]:
        """For the record: whether the tokenizer has begin and end tokens, and what thoughts stand between."""
        return {
            "begin_token": self.has_bos,
            "end_token": self.eos is not None,
            "thoughts": " ".join(self._markers or ()),
        }

    def _first_piece(self, text: str) -> str:
        ids = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return str(self.tokenizer.convert_ids_to_tokens(ids[0])) if ids else ""

    def render(self, messages: Sequence[Message], form: str) -> str:
        return self._rendered(tuple((m["role"], m["content"]) for m in messages), form)

    def _render(self, turns: tuple[tuple[str, str], ...], form: str) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        if not messages:
            return ""
        if form == "raw":
            return messages[-1]["content"]
        return self._render_chat(messages, form) if self.chat else self._render_plain(messages, form)

    def _render_plain(self, messages: Sequence[Message], form: str) -> str:
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
            messages[-1]["content"] += "\n" + self.prompt.step_by_step
        try:
            with _deadline(TEMPLATE_SECONDS):
                return str(
                    self.tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=True, **self._switch
                    )
                )
        except Exception as error:  # a template is somebody's program: whatever it does wrong, it is the model's fault
            raise ModelError(
                f"The model's chat template cannot render a prompt: {first_line(error)}",
                hint="Mend the template, or do without it: prompt.use_chat_template=false",
            ) from error

    def _turn(self, question: str, answer: str | None, form: str) -> str:
        before, _, after = self.prompt.format.partition("{question}")
        asked = before + question + after
        if answer is not None:
            return f"{asked} {answer.lstrip()}"
        return f"{asked} {self.prompt.step_by_step}" if form == "cot" else asked

    def encode(self, text: str) -> tuple[int, ...]:
        return self._encoded(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._ids(text)
        bos = self.tokenizer.bos_token_id
        start = [bos] if bos is not None and ids[:1] != [bos] else []
        return tuple(start + ids) or self._nothing()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False) if text else []
        if max(ids, default=0) >= self.width:
            odd = next(i for i in ids if i >= self.width)
            raise ModelError(
                f"The tokenizer writes {self.tokenizer.convert_ids_to_tokens(odd)!r} as {odd}, but the model has"
                f" embeddings for ids below {self.width} only.",
                hint="Use the tokenizer that the model was trained with, or model.resize_token_embeddings and train.",
            )
        return ids

    def _nothing(self) -> tuple[int, ...]:
        """No prompt, no BOS: the end token, which separates documents in pretraining."""
        if self.eos is None:
            raise ModelError(
                "The tokenizer has neither a begin nor an end token, so nothing can be sampled unprompted.",
                hint="Set bos_token or eos_token in tokenizer_config.json, or train.replay=0.",
            )
        return (self.eos,)

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """A space at the beginning is left to a tokenizer that puts one there itself (sentencepiece), or it had two."""
        ids = self._ids(text[1:] if self._puts_a_space and text[:1] == " " else text)
        return (*ids, self.eos) if self.eos is not None else tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        if not self._shown:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        hidden = self._special - self._shown
        return str(self.tokenizer.decode([i for i in ids if i not in hidden], skip_special_tokens=False))

    # ------------------------------------------------------------ thoughts

    def lead(self, prompt: str) -> str:
        if self._markers and self._markers.opened_by(prompt):
            return f"\n{self._markers.close}\n\n"  # as templates write an empty block
        return "" if prompt[-1:].isspace() else " "

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        return self._markers.said(text, self._opened_by(tuple(prompt_ids))) if self._markers else text

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        text = self.decode(completion_ids)
        said = self.said(prompt_ids, text)
        if said is None or said == text or self._markers is None:
            return len(completion_ids) if said is None else 0
        close = self._markers.close
        lengths = range(len(completion_ids) + 1)
        return bisect_left(lengths, text.count(close), key=lambda n: self.decode(completion_ids[:n]).count(close))

    def _leaves_off_in_thoughts(self, prompt_ids: tuple[int, ...]) -> bool:
        if self._markers is None:
            return False
        enough = len(self._markers.open.encode()) + 8  # no piece is shorter than a byte; white space may follow
        return self._markers.opened_by(self.decode(prompt_ids[-enough:]))


def _thoughts_of(tokenizer: Any, prompt: PromptConfig) -> Markers | None:
    if prompt.think == "off":
        return None
    return markers(tokenizer) if prompt.think == "auto" else Markers(*prompt.think)


def _thinking_switch(tokenizer: Any, prompt: PromptConfig, chat: bool) -> dict[str, bool]:
    """What tells the chat template to think, or not to. Raises ModelError where it cannot be told."""
    if prompt.thinking is None:
        return {}
    known = _template_variables(str(tokenizer.get_chat_template())) if chat else set()
    found = next((name for name in SWITCHES if name in known), None)
    if found is None:
        what = "chat template has no switch for thinking" if chat else "model has no chat template to tell"
        raise ModelError(
            f"prompt.thinking={str(prompt.thinking).lower()}: the {what} ({' or '.join(SWITCHES)}).",
            hint="Leave prompt.thinking out.",
        )
    return {found: prompt.thinking}


def _template_variables(template: str) -> set[str]:
    """The names that a template expects to be given; () where it does not parse, as rendering will say."""
    from jinja2 import Environment, TemplateSyntaxError, meta

    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)  # a tag of transformers' own
    try:
        return meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain))
    except TemplateSyntaxError:
        return set()


@lru_cache(maxsize=8)
def load_tokens(folder: str, prompt: PromptConfig) -> TextTokens:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # any of a dozen types, by tokenizer class: one boundary, named
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}", hint="Save it again.") from error
    config = _folders.model_config(Path(folder))
    text = config.get("text_config", config)
    context = int(text.get("max_position_embeddings") or text.get("n_positions") or 2048)
    return TextTokens(tokenizer, context, prompt, int(text.get("vocab_size") or len(tokenizer)))


def load_model(checkpoint: Checkpoint, dtype: str, device: str, *, merge: bool = True) -> Any:
    """An ``AutoModelForCausalLM`` in eval mode, the adapter (if any) merged into the weights for speed.

    With ``merge`` false a checkpoint's adapter is left out: see ``with_adapter``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quieten()
    try:
        with enough(f"for the model in {checkpoint.model}", "Use a smaller model, or engine.dtype=bfloat16."):
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.model,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=attention(checkpoint.model),
            )
    except OutOfMemory:
        raise
    except Exception as error:  # transformers raises a dozen types for a bad folder: one boundary, named
        raise ModelError(
            f"The model in {checkpoint.model} cannot be loaded: {first_line(error)}",
            hint="Does AutoModelForCausalLM.from_pretrained(folder) load it?",
        ) from error
    if checkpoint.adapter and merge:
        model = with_adapter(model, Path(checkpoint.adapter), trainable=False).merge_and_unload()
    return model.to(device).eval()


def with_adapter(model: Any, folder: Path, *, trainable: bool) -> Any:
    """A ``PeftModel``: the adapter in ``folder`` on its base. Raises ModelError when it does not fit the base."""
    from peft import PeftModel

    _folders.check_adapter(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # PEFT would go on with random ones
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except Exception as error:  # sizes, names, a damaged file: PEFT has a type for each
        raise ModelError(
            f"The adapter {folder} does not fit its base model: {first_line(error)}",
            hint=f"Was it trained on another model? Its base stands in {folder / _folders.ADAPTER}.",
        ) from error


def quieten() -> None:
    """Our own view shows progress; transformers' bars and notices would tear it."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def attention(folder: str) -> str | None:
    """ "eager" on CPU for tiny models, where it trains 1.5 times as fast (docs/LOG.md); else transformers' choice."""
    import torch

    size = sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))
    return "eager" if size < 40_000_000 and not torch.cuda.is_available() else None
