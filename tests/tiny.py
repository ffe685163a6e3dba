"""Tiny random checkpoints in the standard folder format, for engine tests."""

from __future__ import annotations

from pathlib import Path

ARCHITECTURES = ("llama", "qwen2", "gpt_neox", "gpt2", "gemma")


def tokenizer(chat: bool = True):
    """Byte-level vocabulary with begin, end and pad tokens; with a chat template unless told otherwise."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    if chat:
        turn = "{{ m['role'] + ': ' + m['content'] + '\\n' }}"
        fast.chat_template = "{% for m in messages %}" + turn + "{% endfor %}assistant:"
    return fast


def config(architecture: str, context: int = 128):
    from transformers import AutoConfig

    common = {"vocab_size": 260, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if architecture == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context}
    else:
        shape["max_position_embeddings"] = context
    if architecture in ("llama", "qwen2", "gemma"):
        shape["num_key_value_heads"] = 2
    if architecture == "gemma":
        shape["head_dim"] = 8
    return AutoConfig.for_model(architecture, **common, **shape)


def checkpoint(
    folder: Path, architecture: str = "llama", *, chat: bool = True, seed: int = 0, context: int = 128
) -> Path:
    """A random model of about 30,000 parameters in ``folder``, large enough weights that greedy text varies."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(architecture, context))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    tokenizer(chat).save_pretrained(folder)
    return folder
