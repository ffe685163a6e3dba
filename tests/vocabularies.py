"""Tokenizers of the kinds that models have, small, and random models for them.

Byte-level BPE, and BPE on sentencepiece's terms. Merges are learned from a line of text, so that tokens are longer than
a character and emoji are cut between tokens. The templates do what those of the models do, in fewer words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = ['The answer is 42. the name, the age: {"name": "Ana", "age": 7} Step by step, über naïve 日本 😀'] * 3
QWEN = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


# Thoughts are the model's to begin; earlier ones are dropped; enable_thinking=false writes an empty block.
QWEN3 = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}
{{- '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"""
# The prompt begins the thoughts, so a completion holds the closing marker alone.
R1 = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}
{%- else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}
{{- '<|Assistant|><think>\\n' }}"""
MISTRAL = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""


def byte_level(size: int = 300, added: tuple[AddedToken | str, ...] = (), **special: str) -> PreTrainedTokenizerFast:
    """As GPT-2, GPT-NeoX, Qwen and Llama 3 have it: every byte is a letter, a token any run of bytes."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return _finished(raw, added, special)


def sentencepiece(size: int = 330, added: tuple[AddedToken | str, ...] = (), **special: str) -> PreTrainedTokenizerFast:
    """As Llama 2, Mistral and Gemma have it: "▁" for a space, one put in front of a text, bytes for what is unknown."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learned.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    known = [t for t, _ in sorted(learned.get_vocab().items(), key=lambda item: item[1]) if t.isascii() or "▁" in t]
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *known][:size]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [(t[:i], t[i:]) for t in known for i in range(1, len(t)) if {t, t[:i], t[i:]} <= set(vocab)]
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(raw, added, special)


def _finished(raw: Tokenizer, added: tuple[AddedToken | str, ...], special: dict[str, str]) -> PreTrainedTokenizerFast:
    """``special``: bos_token, eos_token, pad_token; a begin token is put in front by the tokenizer itself, too."""
    names = [AddedToken(name, special=True, normalized=False) for name in dict.fromkeys(special.values())]
    raw.add_special_tokens([*names, *(t for t in added if isinstance(t, AddedToken) and t.special)])
    raw.add_tokens([t if isinstance(t, AddedToken) else AddedToken(t, normalized=False) for t in added])
    if bos := special.get("bos_token"):
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    kinds: dict[str, Any] = special
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **kinds)


def checkpoint(
    folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast, ends: int | list[int] | None
) -> Path:
    """A random model of two layers with embeddings for the tokenizer (and some to spare), and the tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
    if architecture == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    if architecture in ("gpt_neox", "qwen2"):  # no width of heads of their own
        shape = {k: v for k, v in shape.items() if k != "head_dim"}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(architecture, vocab_size=-(-len(tokenizer) // 8) * 8, **shape, **special)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
