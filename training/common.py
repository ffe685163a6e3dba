"""What the bundled models share: a byte-fallback BPE tokenizer, pretraining from scratch, a model folder with its card.

The folders are ordinary: ``AutoModelForCausalLM.from_pretrained`` reads them, and nothing in the package knows them.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = [PAD, BOS, EOS, UNK]
PIECES = r"\d| ?\p{L}+|#+ ?|[^\p{L}\d#]+"  # digits stand alone, "#### " too; words take the space before them
CONTEXT = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\\nA: ' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + bos_token }}{% endif %}{% endfor %}"
)
WORDS = r" ?\p{L}+| ?\d+|\s|[^\p{L}\d\s]+"  # the pieces of a tokenizer of whole words
WORD_TEMPLATE = (  # an answer brings the space before it, and is then the token that it is within a text
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\\nA:' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token + bos_token }}{% endif %}{% endfor %}"
)
Document = tuple[str, str]  # question with its frame, answer; several of them, as turns of a chat, are one text too
Draw = Callable[[random.Random, float], Document | Sequence[Document]]  # (randomness, share of the training done)


@dataclass(frozen=True)
class Settings:
    """One pretraining run on fresh documents: none is read twice but by chance."""

    steps: int
    documents: int = 64  # documents in a step
    lr: float = 2e-3
    warmup: int = 100
    min_lr_share: float = 0.02
    prompt_weight: float = 0.1  # loss on questions: enough to learn their form, not their digits
    chat_weight: float = 1.0  # loss on answers to questions ("Q: "), beside 1 on other completions
    heavy: Mapping[str, float] = field(default_factory=dict)  # how other texts begin -> loss on their completions
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    seed: int = 0
    threads: int = 1  # a second one gains a quarter here, and the sums differ in their last bits


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A BPE tokenizer learnt on ``texts`` with all 256 bytes as fallback, so that no text is ever unknown."""
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pieces
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    return _fast(pieces, sorted(learnt["vocab"], key=learnt["vocab"].get), merges)


def make_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Every piece (WORDS) of ``texts`` is a token, in alphabetical order; anything else falls back to its bytes."""
    pieces = pre_tokenizers.Split(Regex(WORDS), "isolated")
    fast = _fast(pieces, sorted({piece for text in texts for piece, _ in pieces.pre_tokenize_str(text)}), [])
    fast.chat_template = WORD_TEMPLATE
    return fast


def _fast(pieces: Any, tokens: Sequence[str], merges: list[Any]) -> PreTrainedTokenizerFast:
    vocab = {piece: i for i, piece in enumerate(SPECIAL + [f"<0x{b:02X}>" for b in range(256)])}
    for piece in tokens:
        vocab.setdefault(piece, len(vocab))
    bpe = models.BPE(
        vocab=vocab, merges=merges, unk_token=UNK, byte_fallback=True, fuse_unk=True, ignore_merges=not merges
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, attn_implementation="eager",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document | Sequence[Document]], settings: Settings
) -> list[Any]:
    """(ids, loss weight of each id) per document; each of its turns stands between begin and end tokens."""
    heavy = {"Q: ": settings.chat_weight, **settings.heavy}
    chats = [[d] if isinstance(d[0], str) else d for d in documents]
    turns = [turn for chat in chats for turn in chat]
    asked = iter(tokenizer([q for q, _ in turns], add_special_tokens=False)["input_ids"])
    said = iter(tokenizer([a for _, a in turns], add_special_tokens=False)["input_ids"])
    rows = []
    for chat in chats:
        ids, weights = [], []
        for (question, _), q, a in ((turn, next(asked), next(said)) for turn in chat):
            weight = next((w for start, w in heavy.items() if question.startswith(start)), 1.0)
            ids += [tokenizer.bos_token_id, *q, *a, tokenizer.eos_token_id]
            weights += [settings.prompt_weight] * (len(q) + 1) + [weight] * (len(a) + 1)
        rows.append((ids, weights))
    return rows


def learn(model: Any, rows: Sequence[Any]) -> float:
    """Add the gradients of one step, in micro-batches of like lengths; returns the mean answer loss, in nats."""
    answers = sum(w >= 1.0 for _, weights in rows for w in weights)
    left = sorted(rows, key=lambda row: len(row[0]))
    total = 0.0
    while left:
        width = -(-len(left[-1][0]) // 16) * 16  # few shapes: one the matrix library has not met is slow
        count = 1 << max(0, (4096 // width).bit_length() - 1)
        while count >= 2 * len(left):
            count //= 2
        total += _micro_batch(model, left[-count:], (count, width), answers)
        left = left[:-count]
    return total


def _micro_batch(model: Any, part: Sequence[Any], shape: tuple[int, int], answers: int) -> float:
    ids = torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    mask = torch.zeros(shape, dtype=torch.long)
    mask[:, 0] = 1
    for row, (some, weigh) in enumerate(part):
        ids[row, : len(some)] = torch.tensor(some)
        weights[row, : len(some)] = torch.tensor(weigh)
        mask[row, : len(some)] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    each = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    ((each * weights[:, 1:]).sum() / answers).backward()
    return float((each.detach() * (weights[:, 1:] >= 1.0)).sum()) / answers


def pretrain(model: Any, tokenizer: PreTrainedTokenizerFast, draw: Draw, settings: Settings) -> float:
    """Train from scratch; returns the mean answer loss of the last hundred steps, in nats.

    A step keeps documents of all lengths together: batches of one length each learn markedly worse (docs/LOG.md).
    """
    torch.set_num_threads(settings.threads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = random.Random(settings.seed)
    began, seen, losses = time.time(), 0, [0.0]
    for step in range(settings.steps):
        done = step / settings.steps
        share = settings.min_lr_share + (1 - settings.min_lr_share) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / settings.warmup) * share
        rows = encode(tokenizer, [draw(rng, done) for _ in range(settings.documents)], settings)
        seen += sum(len(ids) for ids, _ in rows)
        losses.append(learn(model, rows))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0:
            recent = sum(losses[-100:]) / 100
            pace = seen / (time.time() - began)
            print(f"step {step + 1} of {settings.steps}: answer loss {recent:.3f}, {pace:,.0f} tokens/s", flush=True)
    return sum(losses[-100:]) / 100


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """(model, tokenizer) of a bundled folder, to train on."""
    logging.disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").train()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str) -> None:
    """A standard checkpoint folder: config, safetensors, tokenizer, generation config, card."""
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
