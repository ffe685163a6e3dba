"""Tiny random checkpoints in the standard folder format, for engine tests."""

from __future__ import annotations

import json
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


RUN = """
name: tiny
seed: 5
method: {name: self_consistency, samples: 8, temperature: 4.0, max_tokens: 60, vote: all, sample_format: direct,
         formats: [direct]}
tasks: {name: jsonl, checker: exact}
train: {kind: lora, lr: 1e-3, steps: 4, batch_tokens: 512, lora_rank: 4, lora_alpha: 8}
engine: {name: torch_engine, processes: 1, threads: 1, autocast: false}
"""


def run(folder: Path, *overrides: str) -> Path:
    """A prepared run of a random model in ``folder/run``: it learns from all it says and is judged on a few answers."""
    from selftaught import loop
    from selftaught.config import parse_recipe

    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"question": f"What is {i}+{i % 7}?", "answer": str(i + i % 7)}) for i in range(11, 51)]
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n")
    paths = (f"model={checkpoint(folder / 'model')}", f"tasks.path={folder / 'questions.jsonl'}")
    loop.prepare(parse_recipe(RUN, "tiny", (*paths, *overrides)), folder / "run")
    return folder / "run"
