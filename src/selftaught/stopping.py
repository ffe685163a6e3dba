"""How a run is stopped: a token, a file ``stop`` in its folder, and a watchdog for what looks at neither.

Long loops look at the token often and end with Stopped, in order. What cannot look (one step of a large model, a model
that is being loaded, a user's function) is ended together with its process. A record survives that at any moment, so it
costs what was not finished, and no more. Only the command line has a watchdog: a library does not end the process of
who called it. Code that never gives up Python's own lock (a regular expression that backtracks) keeps the watchdog out
too; a second Ctrl-C ends that.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from selftaught import lock
from selftaught.engines.base import StopToken
from selftaught.errors import Stopped
from selftaught.store import read_lines, write_file

T = TypeVar("T")
STOP = "stop"  # a file of this name in a run's folder ends it
SECONDS = 10.0  # within which a run that was asked to has ended
PATIENCE = 7.0  # seconds that it has to end in order
POLL = 0.5  # seconds between two looks of the watchdog
LAST = 1.0  # seconds that each of its last acts may take
PAUSE = 0.1  # seconds between two looks of somebody who waits


def heeding(stop: StopToken, items: Iterable[T], every: int = 1) -> Iterator[T]:
    """``items``, with a look at the token at every ``every``-th, from the first on. Raises Stopped."""
    for number, item in enumerate(items):
        if number % every == 0 and stop():
            raise Stopped
        yield item


def ask(folder: Path, wait: float = 0.0) -> Path:
    """Ask the run in ``folder`` to end, and wait so many seconds until it has. Returns the file that asks."""
    file, until = folder / STOP, time.monotonic() + wait
    write_file(file, b"")
    while lock.is_held(folder / "lock") and time.monotonic() < until:
        time.sleep(PAUSE)
        if lock.is_held(folder / "lock") and not file.exists():
            write_file(file, b"")  # it began just now, and cleared away what it took for an older one
    return file


@contextmanager
def heard(stop: StopToken, folder: Path, journal: Callable[..., None] | None = None) -> Iterator[StopToken]:
    """A token that is true when ``stop`` is, or when the folder holds the file; a Watchdog watches over what is within.

    ``journal`` is that of the run's store; None before there is one.
    """
    if isinstance(stop, Watchdog):
        stop.work = folder, journal
    file = str(folder / STOP)
    try:
        yield lambda: stop() or os.path.exists(file)
    finally:
        if isinstance(stop, Watchdog):
            stop.rest()


class Watchdog:
    """A stop token that ends its process, within SECONDS, where a run that was asked to stop does not end in order.

    A context manager: inside, a thread looks at ``asked`` and at the file ``stop`` of the run that is on. It does
    nothing until one of them is there for ``patience`` seconds; then it calls ``say`` with one line for people, ends
    the worker processes, notes it in the run's journal, and ends the process with the exit code of Stopped.
    """

    def __init__(self, asked: StopToken, say: Callable[[str], None], patience: float = PATIENCE) -> None:
        self.asked, self.say, self.patience = asked, say, patience
        self.work: tuple[Path, Callable[..., None] | None] | None = None
        self._waited = 0.0
        self._over = threading.Event()
        self._ending = threading.Lock()  # held to the end: nobody takes what it is about to end for finished

    def __call__(self) -> bool:
        return self.asked()

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._ending:
            self._over.set()

    def rest(self) -> None:
        """What was watched over has ended, so whoever called it has its own time to come to an end."""
        with self._ending:
            self.work, self._waited = None, 0.0

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(POLL):
            now = time.monotonic()
            passed, last = min(2 * POLL, now - last), now  # a machine that slept has not waited
            with self._ending:
                self._waited = self._waited + passed if self._is_asked() else 0.0
                if self._waited >= self.patience and not self._over.is_set():
                    self._end()

    def _is_asked(self) -> bool:
        return self.asked() or (self.work is not None and os.path.exists(self.work[0] / STOP))

    def _end(self) -> None:
        try:
            for act in (self._speak, _end_workers, self._note):  # the note last: after it nothing more is written
                thread = threading.Thread(target=act, daemon=True)  # a terminal or a disk may hang
                thread.start()
                thread.join(LAST)
        finally:
            os._exit(Stopped.exit_code)

    def _speak(self) -> None:
        folder, journal = self.work or ("", None)
        self.say(
            f"stopped in the middle of a step; nothing finished is lost; go on with: selftaught resume "
            f"{shlex.quote(str(folder))}"
            if journal
            else "stopped before anything was begun"
            if folder
            else "stopped"
        )

    def _note(self) -> None:
        if self.work is None:
            return
        folder, journal = self.work
        with suppress(Exception):
            if journal is None:  # a new run's folder, with nothing in it
                (folder / STOP).unlink(missing_ok=True)
                folder.rmdir()
            else:
                stages = [e["stage"] for e in read_lines(folder / "journal.jsonl") if e.get("event") == "stage"]
                journal("stopped", hard=True, during=stages[-1] if stages else "")


def _end_workers() -> None:
    for child in multiprocessing.active_children():
        with suppress(Exception):
            child.kill()
