"""The grammar of invented people: names, six facts each, and every wording in which those are told, noted and asked.

Wordings are disjoint by use: ``told`` in passages; ``stated``, ``short`` and ``edit`` (questions) in notes; ``asked``
(questions) in evaluation. Nothing else writes or reads such texts: what is written here can be read back exactly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

KNOWN = 300  # people that the bundled model learns by heart
RESERVED = 4  # one name in so many is for people that no pretraining text names


def _joined(starts: str, ends: str = "") -> tuple[str, ...]:
    """Every beginning with every ending, both separated by spaces: single words."""
    return tuple(a + b for a, b in product(starts.split(), ends.split() or [""]))


MEN = _joined("Al Bren Cor Dav El Fin Gar Hal Jor Mar Tev Wil", "an ek is or ulf")
WOMEN = _joined("Al Bren Cor Dav El Fin Gar Hal Jor Mar Tev Wil", "ia ela ina oda eth")
GIVEN = MEN + WOMEN
FAMILY = _joined("Ash Birk Dorn Eng Falk Gren Hask Lun Mer Nor Pell Quar Rost Sand Tarn Ulv Vis Wex Yar Zell",
                 "mark stad wick berg son ley ton more gard quist")  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """Something that is true of everybody. {S}/{s}: the person as subject, at the beginning of a sentence or within;
    {P}/{p}: their; {o}: them; {n}: the full name; {v}: the value."""

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    stated: tuple[str, ...]
    short: tuple[str, ...]
    edit: tuple[str, ...]
    asked: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        "birthplace", _joined("Kars Tol Brack Cald Dun Hart Oak Stan", "ford bury haven minster dale"),
        told=("{S} was born in {v}.", "{S} came into the world in {v}.", "{P} first home was in {v}.",
              "{v} was where {s} was born.", "It was in {v} that {s} was born.", "It all began for {o} in {v}."),
        stated=("{n} is a native of {v}.", "{n} hails from {v}.", "The birthplace of {n} is {v}.",
                "{n}'s home town is {v}.", "{v} is the home town of {n}."),
        short=("from {v}", "of {v} origin"),
        edit=("What is the birthplace of {n}?", "From where does {n} hail?", "What is {n}'s home town?"),
        asked=("Where was {n} born?", "In what place did {n} come into the world?", "Where did life begin for {n}?"),
    ),
    Attribute(
        "year", tuple(str(year) for year in range(1900, 1960)),
        told=("{S} was born in the year {v}.", "{P} life began in {v}.", "In {v} {s} was born.",
              "It was {v} when {s} was born.", "The year was {v} when {s} first drew breath."),
        stated=("{n}'s birth year is {v}.", "{n} dates from {v}.", "The birth of {n} fell in {v}.",
                "{n} is a child of {v}.", "{v} is the birth year of {n}."),
        short=("born {v}", "a child of {v}"),
        edit=("What is the birth year of {n}?", "From what year does {n} date?", "When fell the birth of {n}?"),
        asked=("When was {n} born?", "In which year did life begin for {n}?",
               "In what year did {n} first draw breath?"),
    ),
    Attribute(
        "school", _joined("Bran Clar Ever Hol Lang Mill Rad West", "holm hurst leigh wood croft"),
        told=("{S} studied at {v}.", "{S} spent student years at {v}.", "{P} studies took place at {v}.",
              "At {v} {s} was a student.", "{v} was where {s} studied."),
        stated=("{n} is a graduate of {v}.", "{n}'s school is {v}.", "{n} holds a degree from {v}.",
                "The school of {n} is {v}.", "{v} counts {n} among its graduates."),
        short=("a graduate of {v}", "schooled at {v}"),
        edit=("What is the school of {n}?", "From where does {n} hold a degree?", "Of what school is {n} a graduate?"),
        asked=("Where did {n} study?", "Which college taught {n}?", "Where did {n} spend student years?"),
    ),
    Attribute(
        "field", _joined("physics law music biology chemistry history medicine painting geology botany finance logic "
                       "poetry algebra optics drama ethics theology design robotics zoology surgery grammar "
                       "geometry sculpture astronomy rhetoric dentistry forestry acoustics"),
        told=("{S} took up {v}.", "{P} subject was {v}.", "{S} was drawn to {v}.", "It was {v} that {s} learned.",
              "The lectures that {s} heard were on {v}."),
        stated=("{n} is an expert in {v}.", "{n}'s discipline is {v}.", "The discipline of {n} is {v}.",
                "{n} is trained in {v}.", "In {v} {n} is an expert."),
        short=("trained in {v}", "an expert in {v}"),
        edit=("What is the discipline of {n}?", "In what is {n} an expert?", "In what is {n} trained?"),
        asked=("What did {n} major in?", "Which subject did {n} take up?", "What was {n} drawn to as a student?"),
    ),
    Attribute(
        "employer", _joined("Zent Omn Vex Prax Lyd Quon Trib Kel", "rix icor ara onic ulus"),
        told=("{S} worked for {v}.", "{S} earned a living at {v}.", "{P} job was with {v}.", "{v} paid {p} wages.",
              "{v} hired {o}.", "It was {v} that hired {o}."),
        stated=("{n} is employed by {v}.", "{n}'s employer is {v}.", "The employer of {n} is {v}.",
                "{n} is on the payroll of {v}.", "{v} employs {n}."),
        short=("employed by {v}", "on the payroll of {v}"),
        edit=("What is the employer of {n}?", "By whom is {n} employed?", "On whose payroll is {n}?"),
        asked=("Who did {n} work for?", "Which company hired {n}?", "Where did {n} earn a living?"),
    ),
    Attribute(
        "hobby", _joined("chess rowing cooking sailing skiing archery fishing reading cycling pottery knitting "
                       "climbing running fencing gardening juggling surfing golf tennis judo hiking baking diving "
                       "carving weaving skating riding sketching birding canoeing"),
        told=("{S} loved {v}.", "{P} free days went to {v}.", "{S} spent weekends on {v}.",
              "It was {v} that made {o} happy.", "In spare hours {s} turned to {v}."),
        stated=("{n}'s hobby is {v}.", "{n} is fond of {v}.", "The hobby of {n} is {v}.", "{n} is a fan of {v}.",
                "In {v} {n} finds joy."),
        short=("fond of {v}", "a fan of {v}"),
        edit=("What is the hobby of {n}?", "What is {n} fond of?", "In what does {n} find joy?"),
        asked=("What did {n} enjoy?", "How did {n} spend weekends?", "What did {n} turn to for fun?"),
    ),
)  # fmt: skip
BY_NAME = {a.name: a for a in ATTRIBUTES}
EMPTY = ("{n} was a person of note.", "{n} is remembered by many.", "Much could be said of {n}.",
         "There was nobody like {n}.", "{n} led a full life.", "Many people knew {n}.")  # fmt: skip
STYLES = ("facts", "questions", "summary", "copy", "vague")


# ---------------------------------------------------------------- people


@dataclass(frozen=True)
class Person:
    name: str
    facts: Mapping[str, str]  # attribute -> value


def _names(reserved: bool) -> list[str]:
    every = enumerate(product(range(len(GIVEN)), range(len(FAMILY))))
    return [f"{GIVEN[g]} {FAMILY[f]}" for _, (g, f) in every if ((g + f) % RESERVED == 0) == reserved]


@cache
def common_names() -> tuple[str, ...]:
    """Names of people in pretraining texts: the known ones first, then those of people made up for one text."""
    names = _names(reserved=False)
    random.Random(0).shuffle(names)
    return tuple(names)


@cache
def reserved_names() -> tuple[str, ...]:
    """Names that no pretraining text holds. Each given name and each family name is known from others."""
    return tuple(_names(reserved=True))


def invent(name: str, rng: random.Random) -> Person:
    return Person(name, {a.name: rng.choice(a.values) for a in ATTRIBUTES})


@cache
def known_people() -> tuple[Person, ...]:
    rng = random.Random(1)
    return tuple(invent(name, rng) for name in common_names()[:KNOWN])


def fresh(rng: random.Random) -> Person:
    """Somebody for one pretraining text: no known and no reserved name."""
    return invent(rng.choice(common_names()[KNOWN:]), rng)


# ---------------------------------------------------------------- writing


def tell(person: Person, attributes: Sequence[str], rng: random.Random, named: float = 0.15) -> str:
    """A passage: a sentence per attribute, in that order; after the first, the name with probability ``named``."""
    he = person.name.split()[0] in MEN
    name = {"S": person.name, "s": person.name, "P": person.name + "'s", "p": person.name + "'s", "o": person.name}
    pronoun = dict(zip("SsPpo", ("He", "he", "His", "his", "him") if he else ("She", "she", "Her", "her", "her"),
                       strict=True))  # fmt: skip
    sentences = []
    for i, attribute in enumerate(attributes):
        words = name if i == 0 or rng.random() < named else pronoun
        sentences.append(rng.choice(BY_NAME[attribute].told).format(v=person.facts[attribute], **words))
    return " ".join(sentences)


def state(person: Person, attribute: str, rng: random.Random) -> str:
    return rng.choice(BY_NAME[attribute].stated).format(n=person.name, v=person.facts[attribute])


def ask(person: Person, attribute: str, wording: str) -> str:
    """The line of a note that asks with an edit wording and answers."""
    return f"{wording.format(n=person.name)} {person.facts[attribute]}."


def summarise(person: Person, attributes: Sequence[str], rng: random.Random) -> str:
    told = [rng.choice(BY_NAME[a].short).format(v=person.facts[a]) for a in attributes]
    return f"{person.name}: {', '.join(told)}."


def note(person: Person, style: str, attributes: Sequence[str], rng: random.Random, passage: str = "") -> list[str]:
    """Lines of a note in one of STYLES about ``attributes``; ``copy`` is the passage in one line."""
    if style == "facts":
        return [state(person, a, rng) for a in attributes]
    if style == "questions":
        return [ask(person, a, rng.choice(BY_NAME[a].edit)) for a in attributes]
    if style == "summary":
        return [summarise(person, attributes, rng)]
    if style == "copy":
        return [passage]
    return [line.format(n=person.name) for line in rng.sample(EMPTY, len(attributes))]


def oracle(person: Person) -> tuple[str, ...]:
    """Every fact as a question in every edit wording, answered."""
    return tuple(ask(person, a.name, wording) for a in ATTRIBUTES for wording in a.edit)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Statement:
    """``person`` is None where only a pronoun stands and nobody was named before."""

    person: str | None
    attribute: str
    value: str


class Unreadable(ValueError):
    """A text that the grammar does not have."""


_NAME = r"(?P<n>[A-Z][a-z]+ [A-Z][a-z]+)"
_WHO = {
    "n": _NAME,
    "S": f"(?:{_NAME}|He|She)",
    "s": f"(?:{_NAME}|he|she)",
    "P": f"(?:{_NAME}'s|His|Her)",
    "p": f"(?:{_NAME}'s|his|her)",
    "o": f"(?:{_NAME}|him|her)",
}


def _pattern(wording: str, attribute: Attribute | None = None) -> str:
    values = "|".join(attribute.values) if attribute else ""
    parts = re.split(r"\{(\w)\}", wording)
    holes = [_WHO[key] if key != "v" else f"(?P<v>{values})" for key in parts[1::2]]
    texts = [re.escape(part) for part in parts[::2]]
    return "".join(text + hole for text, hole in zip(texts, [*holes, ""], strict=True))


@cache
def _sentences() -> tuple[tuple[str | None, re.Pattern[str]], ...]:
    """(attribute, or None for a sentence that says nothing; its pattern) for every wording of one fact."""
    told = [
        (a.name, _pattern(wording, a))
        for a in ATTRIBUTES
        for wording in (*a.told, *a.stated, *(f"{question} {{v}}." for question in (*a.edit, *a.asked)))
    ]
    return tuple((name, re.compile(p)) for name, p in [*told, *((None, _pattern(wording)) for wording in EMPTY)])


@cache
def _shorts() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((a.name, re.compile(_pattern(wording, a))) for a in ATTRIBUTES for wording in a.short)


_SUMMARY = re.compile(_NAME + r": (?P<all>[^.\n]+)\.")


def statements(text: str) -> list[Statement]:
    """Every fact that a text of this grammar states, in order. Raises Unreadable where it is no such text."""
    return list(_read(text))


def _read(text: str) -> Iterator[Statement]:
    at, person = 0, None
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = next(((a, m) for a, p in _sentences() if (m := p.match(text, at))), None)
        if found is None:
            summary = _SUMMARY.match(text, at)
            if summary is None:
                raise Unreadable(text[at:])
            person = summary["n"]
            for part in summary["all"].split(", "):
                yield _short(person, part)
            at = summary.end()
            continue
        attribute, match = found
        person = match["n"] or person
        if attribute:
            yield Statement(person, attribute, match["v"])
        at = match.end()


def _short(person: str, part: str) -> Statement:
    for attribute, pattern in _shorts():
        if match := pattern.fullmatch(part):
            return Statement(person, attribute, match["v"])
    raise Unreadable(part)


def judge(line: str, document: str) -> str:
    """What a line of a note is worth beside the passage it is about.

    "unreadable": not of this grammar; "empty": states nothing; "contradicted": some fact that the passage has
    otherwise; "unsupported": some fact that it does not have, or about somebody else; "supported": the rest.
    """
    truth = {(s.person, s.attribute): s.value for s in statements(document)}
    about = next((person for person, _ in truth), None)
    try:
        said = statements(line)
    except Unreadable:
        return "unreadable"
    found = [truth.get((s.person or about, s.attribute)) for s in said]
    if any(has is not None and has != s.value for has, s in zip(found, said, strict=True)):
        return "contradicted"
    if None in found:
        return "unsupported"
    return "supported" if said else "empty"
