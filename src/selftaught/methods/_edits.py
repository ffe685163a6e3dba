"""Self-edits: how a model is asked for one, and what an adapter learns from one.

The formats are those of SEAL (Zweiger et al. 2025, arXiv 2506.10943, section 4.1; appendix B of version 2): lists of
implications of three lengths, rewritings, questions with answers, reasoning before implications, and no instruction at
all. The wordings are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from selftaught.config import Section
from selftaught.engines.base import Tokens
from selftaught.pieces import pieces
from selftaught.types import Document, Example, Sampling, Task

Format = Literal[
    "implications",
    "implications_long",
    "implications_very_long",
    "rewrite",
    "self_qa",
    "chain_of_thought",
    "none",
]
_IMPLICATIONS = "Read the passage and list {how} that follow from it, directly or indirectly, one on each line."
_HEAD = "{instruction}\n\n{title}\n{text}\n\n{mark}\n"
INSTRUCTIONS: dict[str, tuple[str, str]] = {  # format -> (instruction, what the edit follows)
    "implications": (_IMPLICATIONS.format(how="statements"), "Implications:"),
    "implications_long": (_IMPLICATIONS.format(how="as many statements as you can"), "Implications:"),
    "implications_very_long": (
        _IMPLICATIONS.format(how="every statement, with all details, names and numbers, at great length,"),
        "Implications:",
    ),
    "rewrite": ("Rewrite the passage in several different ways, each on a line of its own.", "Rewritten passages:"),
    "self_qa": (
        "Write questions that the passage answers, each with its answer, as in: Question 1: ... Answer: ...",
        "Question 1:",
    ),
    "chain_of_thought": (
        "Think step by step about what the passage says and what follows from it. Then write a line that says"
        " Implications: and below it one implication on each line.",
        "Thoughts:",
    ),
    "none": ("", ""),
}
_NUMBERED_QUESTION = re.compile(r"(?m)^\s*Question\s*\d*\s*:")
_FIRST = re.compile(r"\s*1[.)]\s")


class Writing(Section):
    """What every method that has edits written may be told about them, and about answers."""

    format: Format = "implications"
    prompt: str | None = None  # instead of the format's, with {title} and {text}
    chat: bool = False  # whether the prompt is a user's turn, or text that the model goes on with
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    title: bool = True  # stands before every training text
    passage: bool = True  # the document is learned too
    answer_tokens: int = Field(default=64, ge=1)
    answer_stop: tuple[str, ...] = ("\n",)  # ends an answer

    @field_validator("prompt")
    @classmethod
    def _shows_the_document(cls, value: str | None) -> str | None:
        if value is not None and "{text}" not in value:
            raise ValueError("prompt needs {text}, where the document stands")
        return value

    def study(self, document: Document) -> Task:
        """How a document is put so that a model writes an edit of it."""
        message = {"role": "user", "content": prompt(self.format, self.prompt, document)}
        return Task((message,), checker="", group=document.id, form="plain" if self.chat else "raw")

    def sampling(self, edits: int) -> Sampling:
        return Sampling(edits, self.temperature, self.top_p, max_tokens=self.max_tokens)

    def answering(self) -> Sampling:
        return Sampling(max_tokens=self.answer_tokens, stop=self.answer_stop)


def prompt(form: Format, own: str | None, document: Document) -> str:
    """The text that an edit follows: ``own`` with {title} and {text} put in, else the format's."""
    if own is not None:
        return filled(own, title=document.title, text=document.text)
    instruction, mark = INSTRUCTIONS[form]
    if not instruction:
        return f"{document.title}\n{document.text}\n"
    return _HEAD.format(instruction=instruction, title=document.title, text=document.text, mark=mark)


def filled(template: str, **values: str) -> str:
    """``template`` with {name} replaced by each value, once: braces within a value are text."""
    return re.sub(r"\{(" + "|".join(values) + r")\}", lambda found: values[found[1]], template)


def texts(form: Format, edit: str, *, whole: bool) -> list[str]:
    """The training texts in an edit: its lines (its questions with their answers), or all of it as one.

    A heading before a numbered list goes; of thoughts only what they come to is learned.
    """
    if not edit.strip():
        return []
    if form == "chain_of_thought":
        edit = edit.rpartition("Implications:")[2]
    if whole:
        return [edit.strip()]
    if form == "self_qa":
        numbered = edit if _NUMBERED_QUESTION.match(edit) else f"Question 1: {edit.strip()}"  # it follows that mark
        starts = [m.start() for m in _NUMBERED_QUESTION.finditer(numbered)]
        parts = [numbered[a:b] for a, b in pairwise([*starts, len(numbered)])]
    else:
        parts = edit.splitlines()
    lines = [line.strip() for line in parts if line.strip()]
    return lines[1:] if len(lines) > 1 and not _FIRST.match(lines[0]) and _FIRST.match(lines[1]) else lines


def lessons(learned: Sequence[str], title: str, tokens: Tokens, most: int | None = None) -> tuple[Example, ...]:
    """Every text as an example of its own, all of whose tokens are learned; one longer than the context, or than
    ``most`` tokens, is cut.

    ``title`` stands before each. Texts that stand twice are learned twice.
    """
    titled = [f"{title}\n{text}" if title else text for text in learned]
    return tuple(
        Example(start, ids, words, source="lesson")
        for text in titled
        for start, ids, words in pieces(text, tokens, most or tokens.context)
    )
