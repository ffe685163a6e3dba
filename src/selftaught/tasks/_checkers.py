"""The built-in checkers: how an answer is read out of a completion, and when two answers are the same.

``number`` follows GSM8K (Cobbe et al. 2021) and LMSI (Huang et al. 2022): the number after the last "####", else after
the last "answer is" (or in the last ``\\boxed{}``), else, if the text has no such marker, the last number in it. What
cannot be read without guessing ("12,34", "1.234,56", "1 000", "1/2/2020") is no answer: no vote is better than a wrong
one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

from selftaught.config import did_you_mean
from selftaught.errors import RecipeError
from selftaught.tasks._graders import doubts_recall, first_line, same_recall, same_squad, words
from selftaught.tasks.base import Checker
from selftaught.types import Task, digest

MARKER = "####"
MAX_DIGITS = 100  # a longer run of digits is a model repeating itself
FALLBACK_WINDOW = 1000  # characters looked at after a marker

_NUMBER = re.compile(
    r"""
    (?:(?P<sign>(?<![\w)\]}%])[-−])(?:\\?[$€£][ ]?)?)?    # in "16-3" the minus is not a sign
    (?:(?P<whole>\d+)[ ](?=\d+/\d))?                       # the 1 of "1 1/2"
    (?P<body>\d+(?:,\d+)*(?:\.\d+)?|(?<!\w)\.\d+)
    (?:/(?P<below>\d+(?:/\d+)*))?
    (?:[eE](?P<power>[-+]?\d{1,2})(?!\w))?
    """,
    re.VERBOSE,
)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d{2})*,\d{3}(?:\.\d+)?")
_SPACE = "[ \u00a0\u2009\u202f]"  # a space, no-break or thin, which some put between groups of three digits
_ENDS_A_NUMBER = re.compile(rf"\d[.,]\Z|(?<![\d.,])\d{{1,3}}(?P<space>{_SPACE})\Z")
_GOES_ON = re.compile(rf"[.,]\d|(?P<space>{_SPACE})\d{{3}}(?!\d)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_ANSWER_IS = re.compile(r"\banswer(?:\s*\([^()\n]{0,40}\))?\s+is\b|\\boxed\s*\{", re.IGNORECASE)
_LEAD = re.compile(r"\W*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?)?\W*", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"[-−]?\s*[$€£]?\s*[-−]?[\d.,]+(?:/\d+)?\s*%?\.?")


# ---------------------------------------------------------------- number


def _canonical(value: Fraction) -> str:
    """ "18", "-0.5"; "1/3" where no finite decimal exists."""
    with localcontext(prec=1000) as context:
        context.traps[Inexact] = True
        try:
            exact = Decimal(value.numerator) / Decimal(value.denominator)
        except Inexact:
            return f"{value.numerator}/{value.denominator}"
        text = f"{exact:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_fragment(found: re.Match[str]) -> bool:
    """Whether the number goes on beside the match, as around the 234 of "1.234,56", "1.234.5" and "1 234"."""
    text, start, end = found.string, found.start("whole" if found["whole"] else "body"), found.end()
    before = _ENDS_A_NUMBER.search(text[max(0, start - 5) : start])
    if before and (not before["space"] or re.match(r"\d{3}(?!\d)", text[start : start + 4])):
        return True
    after = _GOES_ON.match(text, end)
    return after is not None and (not after["space"] or re.fullmatch(r"\d{1,3}", text[start:end]) is not None)


def _read_number(found: re.Match[str] | None) -> str | None:
    """The canonical form of a match, or None if it is ambiguous, a fragment, too long or a division by zero."""
    if found is None:
        return None
    body, below = found["body"], found["below"] or "1"
    if len(found[0]) > MAX_DIGITS or "/" in below or int(below) == 0 or _is_fragment(found):
        return None
    if "," in body and not _GROUPED.fullmatch(body):
        return None
    if body.isdecimal() and not (found["below"] or found["power"] or found["whole"]):
        return str(-int(body) if found["sign"] else int(body))
    value = Fraction(body.replace(",", "")) / int(below) * Fraction(10) ** int(found["power"] or 0)
    if found["whole"] and value < 1:
        value += int(found["whole"])
    return _canonical(-value if found["sign"] else value)


def parse_number(text: str) -> str | None:
    """The number a text answers with, canonical ("18" for "18", "18.00", "$18"), or None. 50% reads as 50."""
    plain = _LATEX_FRACTION.sub(r"\1/\2", text).replace("{,}", ",").replace(r"\,", " ")
    _, marked, tail = plain.rpartition(MARKER)
    found = _NUMBER.search(tail[:FALLBACK_WINDOW]) if marked else None
    if found and _LEAD.fullmatch(tail[: found.start()]):
        return _read_number(found)
    said = last_match(_ANSWER_IS, plain)
    if said:
        return _read_number(_NUMBER.search(plain, said.end(), said.end() + FALLBACK_WINDOW))
    return None if marked else _read_number(last_match(_NUMBER, plain))


def same_number(answer: str, gold: str) -> bool:
    """Equal as numbers, exactly: "1,000" is "1000.0"."""
    parsed = parse_number(gold)
    return parsed is not None and parse_number(answer) == parsed


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None


def last_answer(pattern: re.Pattern[str], text: str) -> str | None:
    """Group 1 (or the whole, without groups) of the last match, stripped; None where that is empty."""
    found = last_match(pattern, text)
    return ((found[1] if pattern.groups else found[0]) or "").strip() or None if found else None


# ---------------------------------------------------------------- exact


def normal(text: str) -> str:
    """Unicode NFC, case folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


_STATED = re.compile(r"\b(?:the|final|correct)\s+answer\s+is\b[:\s]*([^\n]*)", re.IGNORECASE)


def parse_exact(text: str) -> str | None:
    """What follows the last "####"; else the rest of the line after the last "the answer is"; else all of the text.

    Closing dots do not count: "The answer is yes." is "Yes" and "yes.".
    """
    said = _said(text)
    return _undotted(text if said is None else said) or None


def _said(text: str) -> str | None:
    """What a text marks as its answer, if it does."""
    _, marked, tail = text.rpartition(MARKER)
    stated = None if marked else last_match(_STATED, text)
    return tail if marked else stated[1] if stated else None


def _undotted(text: str) -> str:
    return normal(text).rstrip(". ")


def same_exact(answer: str, gold: str) -> bool:
    return _undotted(answer) in (_undotted(gold), parse_exact(gold))


def parse_words(text: str) -> str | None:
    """The words of what is marked as the answer, as for ``exact``; else of the first line in which something stands."""
    said = _said(text)
    return " ".join(words(first_line(text) if said is None else said)) or None


# ---------------------------------------------------------------- choice

_BARE_LETTER = re.compile(r"\s*\(?([A-Ja-j])\)?[.:]?\s*")
_MARKED_LETTER = re.compile(
    r"(?:####|\b(?i:answer)(?:\s*\([^()\n]{0,40}\))?\s*(?:(?i:is)\b|:)|\\boxed\s*\{)\W*(?:text\{)?"
    r"(?:(?i:option|choice)\s+)?\(?(?:(?!I [A-Za-z])([A-J])(?![\w'’])|([a-j])(?=\s*(?:[).,:;}]|$)))"  # "I think"
)
_BRACKETED_LETTER = re.compile(r"\(([A-Ja-j])\)")
_LEADING_LETTER = re.compile(r"\s*\(?([A-J])[).:](?:\s|$)")


def parse_choice(text: str) -> str | None:
    """The letter A-J of a multiple-choice answer, upper case: "B.", "#### B", "the answer is (b)", the last "(B)"."""
    found = (
        _BARE_LETTER.fullmatch(text)
        or last_match(_MARKED_LETTER, text)
        or last_match(_BRACKETED_LETTER, text)
        or _LEADING_LETTER.match(text)
    )
    return next(letter for letter in found.groups() if letter).upper() if found else None


def same_choice(answer: str, gold: str) -> bool:
    parsed = parse_choice(gold)
    return parsed is not None and parse_choice(answer) == parsed


# ---------------------------------------------------------------- a user's pattern


def _regex(pattern: str | None) -> Checker:
    if not pattern:
        raise RecipeError("The checker 'regex' needs a pattern.", hint="Add for example tasks.pattern='ANSWER: (.+)'.")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RecipeError(
            f"tasks.pattern {pattern!r} is not a regular expression: {error}.",
            hint="Mend it, or drop tasks.pattern and tasks.checker to use a built-in checker.",
        ) from error

    def parse(text: str) -> str | None:
        return last_answer(compiled, text)

    def same(answer: str, gold: str) -> bool:
        return normal(answer) in (normal(gold), normal(parse(gold) or gold))

    return Checker("regex", parse, same)


# ---------------------------------------------------------------- any


def parse_any(text: str) -> str | None:
    """The number in a text if it has one, else as ``exact``: what votes are counted by where no answer shows a form."""
    return parse_number(text) or parse_exact(text)


def same_any(answer: str, gold: str) -> bool:
    return same_number(answer, gold) or same_exact(answer, gold)


# ---------------------------------------------------------------- a user's function


def _run_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"selftaught_user_{digest(str(path.resolve()))[:12]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise RecipeError(
            f"checker {name}: {path} cannot be loaded ({type(error).__name__}: {error}).",
            hint=f"Try it alone: python {path}",
        ) from error
    return module


def _find_function(name: str) -> Callable[..., Any]:
    place, _, function = name.rpartition(":")
    path = Path(place).expanduser()
    if path.suffix != ".py" or not path.is_file() or not function:
        raise RecipeError(
            f"checker {name}: {place or name} is not a Python file here.",
            hint="Write tasks.checker=path/to/file.py:function.",
        )
    found = getattr(module := _run_file(path, name), function, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise RecipeError(f"checker {name}: {path} has no function {function!r}{did_you_mean(function, known)}")
    return found  # type: ignore[no-any-return]


def _user(name: str) -> Checker:
    """A checker from ``path/to/file.py:function``. This runs the user's file: only a recipe that names it gets here.

    The function has TRL's reward signature, ``def reward(completions, **row) -> list[float]``: every argument is a
    list with one entry (completions: str; prompts: messages; question, answer, group, source). A score of 0.5 or more
    is correct. Votes still need an answer: they are counted as with ``any``.
    """
    function = _find_function(name)
    file = Path(name.rpartition(":")[0]).expanduser()
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def score(task: Task, text: str) -> float:
        row: dict[str, list[Any]] = {
            "completions": [text], "prompts": [[dict(m) for m in task.prompt]], "question": [task.question],
            "answer": [task.answer], "group": [task.group], "source": [task.source],
        }  # fmt: skip
        try:
            return _one_score(function(**{k: v for k, v in row.items() if takes_all or k in parameters}))
        except Exception as error:  # whatever the user's function raises
            raise RecipeError(
                f"checker {name} failed on {task.source or task.id}: {type(error).__name__}: {error}.",
                hint="It must return a list with one finite number for one completion.",
            ) from error

    return Checker(name, parse_any, same_any, score, hashlib.sha256(file.read_bytes()).hexdigest())


def _one_score(scores: Any) -> float:
    if len(scores) != 1:
        raise ValueError(f"{len(scores)} scores for 1 completion")
    value = float(scores[0])
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}")
    return value


# ---------------------------------------------------------------- by name

_BUILT_IN: dict[str, Callable[[str | None], Checker]] = {
    "exact": lambda _: Checker("exact", parse_exact, same_exact),
    "number": lambda _: Checker("number", parse_number, same_number),
    "choice": lambda _: Checker("choice", parse_choice, same_choice),
    "any": lambda _: Checker("any", parse_any, same_any),
    "squad": lambda _: Checker("squad", parse_words, same_squad),
    "recall": lambda _: Checker("recall", parse_words, same_recall, doubts=doubts_recall),
    "regex": _regex,
}
NAMES = tuple(_BUILT_IN)


def checker(name: str, pattern: str | None = None) -> Checker:
    """The checker ``name``: one of NAMES ("regex" with ``pattern``), or "path/to/file.py:function".

    The latter executes the user's file. Raises RecipeError for anything else.
    """
    if pattern is not None and name != "regex":
        raise RecipeError(
            f"A pattern only goes with the checker 'regex', not with {name!r}.", hint="Set tasks.checker=regex."
        )
    if ":" in name or name.endswith(".py"):
        return _user(name)
    if name not in _BUILT_IN:
        raise RecipeError(
            f"There is no checker {name!r}{did_you_mean(name, NAMES)}",
            hint="Your own function is written path/to/file.py:function.",
        )
    return _BUILT_IN[name](pattern)


def guess(answers: Sequence[str]) -> str:
    """The checker that all gold answers fit: "number", "choice", else "exact"; "any" where there are none to go by."""
    if not answers:
        return "any"
    if all(_PLAIN_NUMBER.fullmatch(a.strip()) and parse_number(a) is not None for a in answers):
        return "number"
    return "choice" if all(_BARE_LETTER.fullmatch(a) for a in answers) else "exact"
