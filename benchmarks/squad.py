"""A whole round of self-edits on SQuAD, 50 passages x 5 edits x 3 adapters, and its bill beside the reference's.

    make bench-squad                                     with a small local model made for it
    .venv/bin/python benchmarks/squad.py --model FOLDER  with a checkpoint of yours
    make bench-squad                                     again: goes on where it was stopped

Only the full round is written to benchmarks/results/squad.json. With --passages it is a part of one, and is printed
beside as large a part of what the reference takes.

The model made for it is a Llama of a million parameters that read SQuAD's passages and questions for a few minutes: it
knows next to nothing, so this measures that real input runs through, what it takes, and no gain. What the reference
takes is said in its paper (Zweiger et al. 2025, arXiv 2506.10943, appendix B) and counted from its released data.

SQuAD (CC BY-SA 4.0) is not part of the project: give its file with --squad, or put it where the tests look.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from selftaught import ledger, loop
from selftaught.config import Recipe, read_recipe
from selftaught.methods import _edits
from selftaught.types import Document
from selftaught.view import Plain

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SELFTAUGHT_DATA", ROOT.parent / "shared" / "data"))
RECIPE = ROOT / "recipes" / "hub" / "squad.yaml"
STEPS, ROWS, WIDTH, LR = 600, 16, 256, 2e-3
HELD = 0.98  # share of the documents that are neither dev nor vault here: the round is what is timed
EDITS, SEEDS = 5, 3  # of the recipe
ADAPTERS = 50 * EDITS * SEEDS  # of the reference's round
REFERENCE = {  # for all of it
    "adapters": ADAPTERS,
    "hours": 6.0,  # on two H100 or H200
    "tokens in its padded steps": 134_000_000,  # 750 adapters x 87 steps x 2,048
    "answers of the model without an edit": 750,  # 15 per passage
    "calls of a grader behind an API": 6_750,
}


def make_model(file: Path, folder: Path) -> None:
    """A small Llama that read the passages for a while, with a vocabulary of their words."""
    passages = json.loads(file.read_text(encoding="utf-8"))
    rng = random.Random(0)
    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    raw.train_from_iterator((p["context"] for p in passages), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    model = llama("1M", context=2048).train()
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = 1, 2, 0
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 50) * (1 - step / STEPS)
        ids = torch.zeros(ROWS, WIDTH, dtype=torch.long)
        for row in range(ROWS):
            text: list[int] = []
            while len(text) < WIDTH:
                text += [1, *tokenizer.encode(_text(rng.choice(passages), rng), add_special_tokens=False), 2]
            ids[row] = torch.tensor(text[:WIDTH])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"making a model: step {step} of {STEPS}, loss {float(loss):.2f}", flush=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _text(passage: dict[str, Any], rng: random.Random) -> str:
    """A question with its answer, or the passage with its sentences as an edit."""
    if passage["questions"] and rng.random() < 0.5:
        asked = rng.choice(passage["questions"])
        return f"Topic: {passage['title']}\nQuestion: {asked['question']}\nAnswer: {asked['answer']}"
    document = Document("", passage["context"], passage["title"])
    sentences = passage["context"].split(". ")
    return _edits.prompt("implications", None, document) + "\n".join(rng.sample(sentences, min(4, len(sentences))))


def recipe_for(model: str, squad: Path, seed: int, passages: int) -> Recipe:
    """The shipped recipe for SQuAD, one round of it, with few documents to judge on."""
    left = (1 - HELD) / 2
    return read_recipe(RECIPE, [
        f"model={model}", f"seed={seed}", "rounds=1", f"tasks.path={squad}", f"tasks.train={HELD}",
        f"tasks.dev={left:.4f}", f"tasks.vault={left:.4f}", "gate.controls=[base,passage]", "gate.text_items=50",
        f"method.passages={passages}", "method.max_tokens=256", "method.reward=loglik", "train.kind=full",
        "train.lr=1e-4",
    ])  # fmt: skip


def seconds(journal: Sequence[Mapping[str, Any]]) -> float:
    """Of all sessions, each from its start to the last line that it wrote: a killed one says nothing when it ends, and
    the clock "seconds" begins anew when the machine does."""
    spans: list[tuple[float, float]] = []
    for entry in journal:
        opens = not spans or entry["event"] in ("started", "resumed")
        spans.append((entry["seconds"] if opens else spans.pop()[0], entry["seconds"]))
    return sum(last - began for began, last in spans)


def bill(record: ledger.RunRecord) -> dict[str, Any]:
    trials = [u["facts"] for u in record.units("trials")]
    rollouts = [u["facts"] for u in record.units("rollouts")]
    counts = record.rounds[0].counts
    return {
        "seconds": round(seconds(record.journal)),
        "passages": counts["edits"] // EDITS,
        "edits": counts["edits"],
        "edits without text": sum(n for k, n in counts.items() if k.startswith("edits without text")),
        "adapters": counts["adapters"],
        "adapters that left the numbers": counts["adapters that left the numbers"],
        "answers": sum(t["questions"] for t in trials),
        "empty answers": counts["empty answers"],
        "tokens sampled for edits": sum(r["tokens"] for r in rollouts),
        "tokens learned by adapters": sum(t["tokens"] for t in trials),
        "outcome": record.outcome,
        "rewards": record.units("findings")[0]["facts"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a checkpoint; none: one is made")
    parser.add_argument("--squad", type=Path, default=DATA / "squad" / "squad_val.json")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "bench-squad")
    parser.add_argument("--passages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.squad.is_file():
        sys.exit(f"There is no {arguments.squad}. Give SQuAD's file with --squad, or its folder in SELFTAUGHT_DATA.")
    model = arguments.model or str(arguments.folder / "model")
    if not arguments.model and not (Path(model) / "tokenizer.json").exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        make_model(arguments.squad, Path(model))
    run = arguments.folder / f"run-{arguments.seed}"
    if not (run / "recipe.yaml").exists():
        loop.prepare(recipe_for(model, arguments.squad.resolve(), arguments.seed, arguments.passages), run)
    loop.run(run, view=Plain(every=30))
    record = ledger.read_run(run)
    found = bill(record)
    share = found["edits"] * SEEDS / ADAPTERS
    for name, value in found.items():
        print(f"{name:40} {value}")
    if share == 1:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "squad.json").write_text(json.dumps({"ours": found, "reference": REFERENCE}, indent=1) + "\n")
        print("\nthe reference, for as many passages, edits and seeds")
    else:
        print(f"\n{found['passages']} passages x {EDITS} edits x {SEEDS} seeds: {share:.1%} of the reference's round;"
              " no result is written. The reference, scaled to that")  # fmt: skip
    for name, value in REFERENCE.items():
        print(f"{name:40} {value * share:,.4g}" if share != 1 else f"{name:40} {value:,}")


if __name__ == "__main__":
    main()
