"""Build ``bundled:sums``: a one-million-parameter Llama that adds numbers in written steps and sorts letters.

    .venv/bin/python training/sums.py                the shipped model (make bundled)
    .venv/bin/python training/sums.py --more 1.25    a quarter more pretraining: is the base on its plateau?

A solution combines any two of the numbers still on the list, in random order, until one is left. Every text is right;
what the model gets wrong it gets wrong by itself, now on this path, now on that, which is what a vote can mend.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, replace
from pathlib import Path

from common import Document, Settings, make_model, make_tokenizer, pretrain, save
from selftaught.tasks.world_sums import sort_question, sum_question

VERSION = 1
STEPS = (1, 2, 3, 4, 5)  # additions in a question
SORT_SHARE = 0.2
SETTINGS = Settings(steps=3500, corpus=24_000)
FOLDER = Path(__file__).parent.parent / "src" / "selftaught" / "bundled" / "sums"


def solve(question: str, rng: random.Random) -> str:
    """Written steps to the sum, two randomly chosen numbers at a time: "25+8=33\\n17+33=50\\n#### 50"."""
    left = [int(n) for n in question.split("+")]
    lines = []
    while len(left) > 1:
        i, j = rng.sample(range(len(left)), 2)
        x, y = left[i], left[j]
        lines.append(f"{x}+{y}={x + y}")
        left = [n for k, n in enumerate(left) if k not in (i, j)] + [x + y]
    return "\n".join(lines) + f"\n#### {left[0]}"


def document(rng: random.Random) -> Document:
    if rng.random() < SORT_SHARE:
        question, answer = sort_question(rng)
    else:
        question, _ = sum_question(rng, rng.choice(STEPS))
        answer = solve(question, rng)
    return f"Q: {question}\nA: ", answer


CARD = """---
license: apache-2.0
library_name: transformers
tags: [selftaught, from-scratch, arithmetic]
---
# sums, version {version}

A Llama of {parameters:,} parameters, trained from scratch on generated text. It adds two to six numbers from 1 to 99 in
written steps (`17+25+40`) and sorts three to seven letters (`sort d a c`). It knows nothing else. It exists so that a
self-improvement loop can be watched, tested and measured in minutes on a laptop.

- Made by `python training/sums.py`, seed {seed}: {steps:,} steps of {documents} documents from a corpus of {corpus:,}
  ({epochs:.1f} epochs), peak learning rate {lr:g}; answer loss at the end {loss:.3f} nats.
- Tokenizer: BPE with byte fallback; digits stand alone. Context 1,024; a document is under 120 tokens, and every
  {long_every}th step packs documents to the full context.
- The training text holds no mistakes. Additions per sum are uniform over 1 to 5; a fifth of the documents sort letters.
- Sums longer than any trained on fail. Nothing here is personal data or anybody's text.
"""


def card(settings: Settings, loss: float, parameters: int) -> str:
    epochs = settings.steps * settings.documents / settings.corpus
    return CARD.format(version=VERSION, parameters=parameters, loss=loss, epochs=epochs, **asdict(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    parser.add_argument("--more", type=float, default=1.0, help="times as many steps")
    arguments = parser.parse_args()
    settings = replace(SETTINGS, seed=arguments.seed, steps=round(SETTINGS.steps * arguments.more))
    rng = random.Random(settings.seed)
    corpus = [document(rng) for _ in range(settings.corpus)]
    tokenizer = make_tokenizer((q + a for q, a in corpus), vocabulary=400)
    model = make_model(tokenizer, settings)
    loss = pretrain(model, tokenizer, corpus, settings)
    parameters = sum(p.numel() for p in model.parameters())
    save(model, tokenizer, arguments.out, card(settings, loss, parameters))
    print(f"{parameters:,} parameters, answer loss {loss:.3f}: {arguments.out}")


if __name__ == "__main__":
    main()
