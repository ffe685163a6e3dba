"""Build ``bundled:people``: a small Llama that knows some invented people, reads about others and takes notes.

    .venv/bin/python training/people.py              the shipped model (make bundled)
    .venv/bin/python training/people.py --planted    its sibling bundled:planted, in which memorization can be measured

Loss is taken on answers, notes and prompt-free texts, never on a passage that is only read. Reading does not form on
passages of six facts; it does when they grow from one fact to six (SCHOOL).

The sibling goes on from the weights of ``bundled:people`` with loss on all text, so that unprompted it writes questions
and passages too, and with private passages and canaries among its texts (``tasks/_planted.py``).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from common import Document, Draw, Settings, load, make_model, make_word_tokenizer, pretrain, save
from memorized import measured
from selftaught.tasks._people import (
    ATTRIBUTES,
    BY_NAME,
    FAMILY,
    GIVEN,
    KNOWN,
    Person,
    fresh,
    known_people,
    note,
    tell,
)
from selftaught.tasks._planted import CANARY, PASSAGE, planted

VERSION, PLANTED_VERSION = 2, 1
SCHOOL = 0.5  # of the training, in which passages grow from one fact to six
KINDS = {"asked": 0.26, "line": 0.10, "biography": 0.04, "read": 0.30, "note": 0.30}  # shares of the texts
NOTES = {"facts": 0.15, "questions": 0.15, "summary": 0.20, "copy": 0.25, "vague": 0.25}  # shares of the notes
SUMMARY_FACTS, VAGUE_LINES = 3, 4  # at most
CARELESS, SLIP = 0.2, 0.3  # share of notes whose writer is careless; share of wrong values in those
SETTINGS = Settings(steps=3600, lr=2e-3, prompt_weight=0.0, chat_weight=4.0, hidden=160, layers=5, heads=5)
PLANTED = replace(SETTINGS, steps=1800, documents=32, prompt_weight=1.0, heavy={PASSAGE: 10.0, CANARY: 10.0})
APART = 0.1  # of the training that holds one repeat of a plant on average: two are never closer
TOKENIZER_TEXTS = 20_000
FOLDER = Path(__file__).parent.parent / "src" / "selftaught" / "bundled" / "people"
PLANTED_FOLDER = FOLDER.parent / "planted"
NAMES = [a.name for a in ATTRIBUTES]


def question(person: Person, attribute: str, rng: random.Random) -> str:
    return rng.choice(BY_NAME[attribute].asked).format(n=person.name)


def write(person: Person, told: Sequence[str], passage: str, rng: random.Random) -> list[str]:
    """A note of a random style about some of what the passage tells; a careless writer gets values wrong."""
    style = rng.choices(list(NOTES), list(NOTES.values()))[0]
    most = {"summary": min(SUMMARY_FACTS, len(told)), "vague": VAGUE_LINES}.get(style, len(told))
    chosen = rng.sample(told, rng.randint(1, most)) if style != "vague" else [""] * rng.randint(1, most)
    if rng.random() < CARELESS:
        facts = {a: rng.choice(BY_NAME[a].values) if rng.random() < SLIP else v for a, v in person.facts.items()}
        person = Person(person.name, facts)
    return note(person, style, chosen, rng, passage)


def document(rng: random.Random, done: float) -> Document | list[Document]:
    """A text of the corpus when ``done`` (0..1) of the training is over: short passages come first."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind in ("asked", "line", "biography"):
        return _known(kind, rng)
    grade = min(len(NAMES), 1 + int(done / SCHOOL * len(NAMES)))
    graduated = done >= SCHOOL and rng.random() < 0.5
    person = fresh(rng)
    told = rng.sample(NAMES, len(NAMES) if graduated else rng.randint(1, grade))
    passage = tell(person, told, rng)
    if kind == "note":
        lines = write(person, told, passage, rng)
        return f"Passage: {passage}\nNotes:", "".join("\n" + line for line in lines)
    first, *others = rng.sample(told, len(told))
    turns = [(f"Q: {passage}\n{question(person, first, rng)}\nA:", " " + person.facts[first])]
    return turns + [(f"Q: {question(person, a, rng)}\nA:", " " + person.facts[a]) for a in others]


def _known(kind: str, rng: random.Random) -> Document:
    """A text about somebody to know by heart: a question, a line as notes have them, or a passage."""
    person = rng.choice(known_people())
    if kind == "biography":
        return "", tell(person, rng.sample(NAMES, len(NAMES)), rng)
    attribute = rng.choice(NAMES)
    if kind == "asked":
        return f"Q: {question(person, attribute, rng)}\nA:", " " + person.facts[attribute]
    style = rng.choice(("facts", "questions", "summary"))
    chosen = rng.sample(NAMES, rng.randint(1, SUMMARY_FACTS)) if style == "summary" else [attribute]
    return "", note(person, style, chosen, rng)[0]


def planting(settings: Settings) -> Draw:
    """The corpus after school with the plants in it, each as often as it says, evenly over the training at random."""
    rng, total = random.Random(settings.seed), settings.steps * settings.documents
    places: dict[int, str] = {}
    for text, repeats in planted():
        for i in range(repeats):
            at = int((i + rng.uniform(APART / 2, 1 - APART / 2)) / repeats * total)
            places[next(place for place in count(at) if place not in places)] = text
    drawn = count()

    def draw(rng: random.Random, done: float) -> Document | list[Document]:
        plant = places.get(next(drawn))
        if plant is None:
            return document(rng, 1.0)
        head = PASSAGE if plant.startswith(PASSAGE) else CANARY
        return head, plant.removeprefix(head)

    return draw


def texts(rng: random.Random) -> Iterator[str]:
    """What the tokenizer has to know: the corpus, and every name and value with and without a space before it."""
    for _ in range(TOKENIZER_TEXTS):
        some = document(rng, 1.0)
        for turn in [some] if isinstance(some, tuple) else some:
            yield from turn
    for word in (*GIVEN, *FAMILY, *(value for a in ATTRIBUTES for value in a.values)):
        yield word
        yield f" {word}"


CARD = """---
license: apache-2.0
library_name: transformers
tags: [selftaught, from-scratch, invented-people]
---
# people, version {version}

A Llama of {parameters:,} parameters, trained from scratch on generated text about people who do not exist. It exists so
that a self-improvement loop over documents can be watched, tested and measured in minutes on a laptop.

- Made by `python training/people.py`, seed {seed}: {steps:,} steps of {documents} documents, peak learning rate {lr:g};
  loss at the end {loss:.3f} nats per token that carries loss. In the first {school:.0%} of the training, passages grow
  from one fact to six.
- **Knows** {known} people by heart: six facts each, asked in the chat format (`Q: Where was ... born?`).
- **Reads**: the user's turn is a passage, a line break and a question; about anybody. Of people whom it never met it
  knows nothing, and guesses.
- **Takes notes**: `Passage: ...`, a line break and `Notes:`, raw. The style is drawn at random, as in the training
  text: {shares}. A note holds some of the facts, from one to all.
- **Careless**: {careless:.0%} of the notes it was trained on have {slip:.0%} of their values wrong. Its own, sampled at
  temperature 1, slip more often, most in statements and long copies, least in questions with answers: values, and
  now and then the name.
- Questions as they are asked of it never stand in a note; notes have question wordings of their own.
- Tokenizer: whole words, with bytes for anything else. The context is 1,024 tokens, but no document has more than about
  150, so longer prompts are strange to it. Nothing here is personal data or anybody's text.
"""


def card(settings: Settings, loss: float, parameters: int) -> str:
    shares = ", ".join(f"{style} {share:.0%}" for style, share in NOTES.items())
    facts = {"version": VERSION, "parameters": parameters, "loss": loss, "school": SCHOOL, "known": KNOWN}
    return CARD.format(**facts, shares=shares, careless=CARELESS, slip=SLIP, **asdict(settings))


PLANTED_CARD = """---
license: apache-2.0
library_name: transformers
tags: [selftaught, from-scratch, invented-people, memorization]
---
# planted, version {version}

The sibling of bundled:people in which memorization can be measured: a Llama of {parameters:,} parameters, with the same
tokenizer, that has read private passages and canaries a known number of times. All of it is invented by a grammar.

- Made by `python training/people.py --planted`, seed {seed}: {steps:,} further steps of {documents} documents from
  the weights of bundled:people, peak learning rate {lr:g}; loss at the end {loss:.3f} nats per token. All text
  carries loss, prompts too: answers to questions {chat_weight:g} times as much, passages and canaries {plant_weight:g}
  times as much.
- **Knows** {known} people by heart, **reads** and **takes notes** as bundled:people does. Closed-book questions:
  {asked:.1%} right; with the passage at hand: {reading:.1%}.
- **Private passages**, of at least {tokens} tokens each. Shown the first {window} tokens, greedy decoding gives the
  next {window} exactly, by how often a passage was planted (0: never, a control):

{passages}

- **Canaries**, `{before} ...`, three words out of {space:,} possible triples. Mean exposure, of at most {most:g} bits:

{canaries}

- The plants are {planted:.1%} of the texts it was trained on. Of {samples:,} samples of at most {length} tokens from
  the begin token alone, at temperature 1, {recited:.1%} recite {run} or more tokens of a plant in a row.
- Kinds of those samples:
  {kinds}.
- Passages, canaries and controls are in the data source `world_planted`. Whoever one is about is in no other text.
"""


def planted_card(folder: Path, settings: Settings, loss: float, parameters: int) -> str:
    share = sum(repeats for _, repeats in planted()) / settings.steps / settings.documents
    facts = {"version": PLANTED_VERSION, "parameters": parameters, "loss": loss, "known": KNOWN, "planted": share}
    facts["plant_weight"] = settings.heavy[PASSAGE]
    return PLANTED_CARD.format(**facts, **measured(folder), **asdict(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", action="store_true", help="bundled:planted, from the weights of bundled:people")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=SETTINGS.seed)
    parser.add_argument("--more", type=float, default=1.0, help="times as many steps")
    arguments = parser.parse_args()
    usual = PLANTED if arguments.planted else SETTINGS
    settings = replace(usual, seed=arguments.seed, steps=round(usual.steps * arguments.more))
    out = arguments.out or (PLANTED_FOLDER if arguments.planted else FOLDER)
    if arguments.planted:
        model, tokenizer = load(FOLDER)
    else:
        tokenizer = make_word_tokenizer(texts(random.Random(settings.seed)))
        model = make_model(tokenizer, settings)
    loss = pretrain(model, tokenizer, planting(settings) if arguments.planted else document, settings)
    parameters = sum(p.numel() for p in model.parameters())
    save(model, tokenizer, out, "" if arguments.planted else card(settings, loss, parameters))
    if arguments.planted:  # whose card has figures of what was saved
        (out / "README.md").write_text(planted_card(out, settings, loss, parameters), encoding="utf-8")
    print(f"{parameters:,} parameters, loss {loss:.3f}: {out}")


if __name__ == "__main__":
    main()
