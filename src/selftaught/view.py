"""What a person sees while a run works. The loop talks to a View; what it looks like is decided here."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Protocol, TextIO


class View(Protocol):
    """A run tells its view: a stage begins, work is done, a line is worth saying, a table is worth showing."""

    def stage(self, name: str, detail: str = "") -> None:
        """Stages: prepare, sample, curate, train, evaluate, audit, gate, record."""
        ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """``unit`` is what is counted: "samples", "steps", "adapters"."""
        ...

    def line(self, text: str) -> None: ...


class Silent:
    """Shows nothing: for Python callers and tests."""

    def stage(self, name: str, detail: str = "") -> None: ...

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def line(self, text: str) -> None: ...


class Plain:
    """One line per stage, and one every ``every`` seconds within it: for logs, pipes and CI."""

    def __init__(self, out: TextIO | None = None, every: float = 10.0) -> None:
        self.out = out or sys.stdout
        self.every = every
        self._stage = ""
        self._began = self._said = 0.0

    def stage(self, name: str, detail: str = "") -> None:
        self._stage, self._began = name, time.monotonic()
        self._said = self._began
        self.line(f"[{name}] {detail}".rstrip())

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._said < self.every and done < total:
            return
        if done >= total and self._said == self._began and now - self._began < self.every:
            return
        self._said = now
        self.line(f"[{self._stage}] {done} of {total} {unit}, {pace(done, total, unit, now - self._began)}")

    def line(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads on (| head): no reason to end a run
            print(text, file=self.out, flush=True)


def pace(done: int, total: int, unit: str, seconds: float) -> str:
    """ "12 steps/s, 0:41 left" """
    rate = done / seconds if seconds > 0 else 0.0
    left = (total - done) / rate if rate > 0 else 0.0
    return f"{rate:,.{0 if rate >= 20 else 1}f} {unit}/s, {int(left) // 60}:{int(left) % 60:02d} left"
