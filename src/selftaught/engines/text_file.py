"""A file of real text in the place of a model that writes unprompted: its samples are its texts, drawn at random.

For ``roles.source: FILE`` of a method that learns from unprompted text. A text is drawn with replacement, by its
sample's seed, and put into the student's tokens as any other model's (roles.py). It answers no prompt but white space,
which a model without a begin token may be fed instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from selftaught.config import Section
from selftaught.engines.base import Completion, Progress, Request, StopToken, never, quiet
from selftaught.errors import Stopped
from selftaught.plain import read
from selftaught.types import Checkpoint, Message, digest

PROMPTED = "a file of text answers no prompt"


class TextFileOptions(Section):
    path: str


class Numbers:
    """``Tokens`` of a file: the number of a text stands for it."""

    digest = digest("texts by number")[:16]
    context = 2**31
    has_bos = True

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def render(self, messages: Sequence[Message], form: str) -> str:
        return messages[-1]["content"] if messages else ""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    encode_completion = encode

    def decode(self, ids: Sequence[int]) -> str:
        return "\n".join(self._texts[i] for i in ids)

    def lead(self, prompt: str) -> str:
        return ""

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        return text

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        return 0


class TextFile:
    Options = TextFileOptions

    def __init__(self, options: TextFileOptions) -> None:
        self.options = options

    @cached_property
    def texts(self) -> list[str]:
        """Raises DataError for a file without text."""
        return list(dict.fromkeys(read(Path(self.options.path), "roles.source")))

    def open(self) -> Checkpoint:
        return Checkpoint(digest("text", self.texts), self.options.path)

    def tokens(self, checkpoint: Checkpoint) -> Numbers:
        return Numbers(self.texts)

    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            if stop():
                raise Stopped
            if bytes(request.prompt_ids).strip():
                yield index, [Completion((), (), "stop", PROMPTED)] * len(request.seeds)
            else:
                yield index, [Completion((seed % len(self.texts),), (), "stop") for seed in request.seeds]
            progress(index + 1, len(requests), "samples")
