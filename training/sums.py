"""Build ``bundled:sums``: a one-million-parameter Llama that adds numbers in written steps and sorts letters.

    .venv/bin/python training/sums.py                the shipped model (make bundled)
    .venv/bin/python training/sums.py --more 1.25    a quarter more pretraining: is the base on its plateau?

A solution combines any two of the numbers still on the list, in random order, until one is left. For the longest sums
four texts in ten give the total alone. Every text is right, but a total of six numbers is more than a model of this
size can work out in one go: it guesses. So it has two habits there, a good one and a bad one, and greedy decoding takes
the bad one: "####" is its single most likely beginning, while worked solutions begin with any of six numbers.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, replace
from pathlib import Path

from common import Document, Settings, make_model, make_tokenizer, pretrain, save
from selftaught.tasks.world_sums import sort_question, sum_question

VERSION = 2
STEPS = (1, 2, 3, 4, 5)  # additions in a question
SCHOOL = 0.4  # of the training, in which the sums grow from one addition to five
SORT_SHARE = 0.15
TOTAL_ONLY = {5: 0.4}  # additions -> share of the texts that give the total without working
SETTINGS = Settings(steps=4000)
TOKENIZER_TEXTS = 20_000
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


def document(rng: random.Random, done: float) -> Document:
    """A text of the corpus when ``done`` (0..1) of the training is over: short sums come first."""
    if rng.random() < SORT_SHARE:
        question, answer = sort_question(rng)
    else:
        grades = min(len(STEPS), 1 + int(done / SCHOOL * len(STEPS)))
        additions = rng.choice(STEPS[:grades])
        question, total = sum_question(rng, additions)
        answer = f"#### {total}" if rng.random() < TOTAL_ONLY.get(additions, 0) else solve(question, rng)
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

- Made by `python training/sums.py`, seed {seed}: {steps:,} steps of {documents} fresh documents, peak learning rate
  {lr:g}; answer loss at the end {loss:.3f} nats. In the first {school:.0%} of the training the sums grow from one
  addition to five.
- **Two habits.** The training text holds no mistakes, but for sums of six numbers {total_only:.0%} of it gives the
  total without working. The model cannot add six numbers in one go. Asked greedily it guesses nearly always; sampled,
  it works the sum out about every other time, and then it is mostly right. A vote can find that, and training fix it.
- Tokenizer: BPE with byte fallback; digits stand alone. The context is 1,024 tokens, but no document has more than
  about 100, so longer prompts are strange to it.
- Sums longer than any trained on fail. Nothing here is personal data or anybody's text.
"""


def card(settings: Settings, loss: float, parameters: int) -> str:
    facts = {"version": VERSION, "parameters": parameters, "loss": loss, "school": SCHOOL, "total_only": TOTAL_ONLY[5]}
    return CARD.format(**facts, **asdict(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    parser.add_argument("--more", type=float, default=1.0, help="times as many steps")
    arguments = parser.parse_args()
    settings = replace(SETTINGS, seed=arguments.seed, steps=round(SETTINGS.steps * arguments.more))
    rng = random.Random(settings.seed)
    texts = ["".join(document(rng, 1.0)) for _ in range(TOKENIZER_TEXTS)]
    tokenizer = make_tokenizer(texts, vocabulary=400)
    model = make_model(tokenizer, settings)
    loss = pretrain(model, tokenizer, document, settings)
    parameters = sum(p.numel() for p in model.parameters())
    save(model, tokenizer, arguments.out, card(settings, loss, parameters))
    print(f"{parameters:,} parameters, answer loss {loss:.3f}: {arguments.out}")


if __name__ == "__main__":
    main()
