"""What a person sees and types while a run works: the live view on a terminal, and Ctrl-C.

``showing`` gives the right View for where the output goes and leaves the terminal as it was, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from selftaught.engines.base import StopToken
from selftaught.errors import Stopped, Waiting
from selftaught.stopping import Watchdog
from selftaught.view import Plain, Silent, View

STAGES = ("prepare", "sample", "curate", "train", "evaluate", "audit", "gate", "record")
STOPPING = "stopping, within 10 seconds; press Ctrl-C again to stop now"


@dataclass
class _Stage:
    """One line of the list. Rates are counted from ``first``, so a resumed stage does not boast."""

    name: str
    detail: str = ""
    state: str = "ahead"  # "ahead", "now", "done", "stopped", "failed"
    seconds: float = 0.0  # in earlier visits
    began: float = 0.0
    done: int = 0
    total: int = 0
    unit: str = ""
    first: int = 0
    first_at: float = 0.0

    def elapsed(self) -> float:
        return self.seconds + (time.monotonic() - self.began if self.state == "now" else 0.0)

    def enter(self, detail: str) -> None:
        self.detail, self.state, self.began = detail, "now", time.monotonic()
        self.done = self.total = 0

    def leave(self, state: str) -> None:
        self.seconds, self.state = self.elapsed(), state

    def count(self, done: int, total: int, unit: str) -> None:
        if (total, unit) != (self.total, self.unit) or done < self.done:
            self.first, self.first_at = done, time.monotonic()
        self.done, self.total, self.unit = done, total, unit

    def rate(self) -> str:
        """ "120 of 2,400 samples · 12 samples/s, 3:10 left" """
        seconds, made = time.monotonic() - self.first_at, self.done - self.first
        text = f"{self.done:,} of {self.total:,} {self.unit}"
        if not made or seconds < 0.5:
            return text
        speed = made / seconds
        left = clock((self.total - self.done) / speed)
        return f"{text} · {speed:,.{0 if speed >= 20 else 1}f} {self.unit}/s, {left} left"


@dataclass
class Live:
    """The stages with check marks, a bar with rate and time left under the current one, and the time so far.

    Use it as a context manager: the screen is there at once, and its last state stays when it ends.
    """

    console: Console
    stages: list[_Stage] = field(default_factory=lambda: [_Stage(name) for name in STAGES])
    notice: str = ""
    _screen: Screen | None = None
    _began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Live:
        self._screen = Screen(self, console=self.console, refresh_per_second=4)
        self._screen.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if (current := self._current()) is not None:
            asked = kind is not None and issubclass(kind, (Stopped, Waiting, KeyboardInterrupt))
            current.leave("done" if kind is None else "stopped" if asked else "failed")
        if self._screen is not None:
            self.notice = ""
            self.stages = [s for s in self.stages if s.state != "ahead"]
            self._screen.transient = not self.stages
            self._screen.stop()
            self._screen = None

    def stage(self, name: str, detail: str = "") -> None:
        current = self._current()
        if current is not None:
            current.leave("done")
        found = next((s for s in self.stages if s.name == name), None)
        if found is None:
            found = _Stage(name)
            self.stages.insert(self.stages.index(current) + 1 if current else 0, found)
        found.enter(detail)
        if self._screen is not None:
            self._screen.refresh()

    def progress(self, done: int, total: int, unit: str) -> None:
        if (current := self._current()) is not None:
            current.count(done, total, unit)

    def line(self, text: str) -> None:
        self.console.print(Text(text))

    def _current(self) -> _Stage | None:
        return next((s for s in self.stages if s.state == "now"), None)

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._list()]
        if self.notice:
            parts.append(Text(self.notice, style="yellow"))
        return Group(*parts)

    def _list(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for stage in self.stages:
            name = Text(stage.name, style="dim" if stage.state == "ahead" else "bold")
            spent = Text(clock(stage.elapsed()) if stage.elapsed() >= 1 else "", style="dim")
            table.add_row(_mark(stage), name, self._middle(stage), spent)
        table.add_row("", "", "", Text(f"{clock(time.monotonic() - self._began)} in all", style="dim"))
        return table

    def _middle(self, stage: _Stage) -> RenderableType:
        if stage.state != "now" or not stage.total:
            return Text(stage.detail)
        bar = ProgressBar(total=stage.total, completed=stage.done, width=min(40, max(10, self.console.width // 3)))
        lines = Table.grid()
        for part in (Text(stage.detail), bar, Text(stage.rate())):
            lines.add_row(part)
        return lines


_SPINNER = Spinner("dots", style="cyan")


def _mark(stage: _Stage) -> RenderableType:
    marks = {
        "ahead": Text("·", "dim"),
        "done": Text("✓", "green"),
        "stopped": Text("■", "yellow"),
        "failed": Text("✗", "red"),
    }
    return marks.get(stage.state, _SPINNER)


def clock(seconds: float) -> str:
    """ "0:41", "12:03", "1:02:03" """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# ---------------------------------------------------------------- which view, and Ctrl-C


def choose(quiet: bool = False, json: bool = False) -> View:
    """Live on a terminal, plain lines elsewhere, nothing when quiet. With ``json`` it all goes to stderr."""
    if quiet:
        return Silent()
    console = Console(stderr=json)
    if console.is_terminal and not console.is_dumb_terminal:
        return Live(console)
    return Plain(sys.stderr if json else sys.stdout)


@contextlib.contextmanager
def showing(quiet: bool = False, json: bool = False) -> Iterator[tuple[View, StopToken]]:
    """The view and the stop token for one run. Ctrl-C or SIGTERM sets the token; a second one interrupts.

    The token is a Watchdog: a run that does not end in order ends with its process.
    """
    view = choose(quiet, json)
    with contextlib.ExitStack() as stack:
        if isinstance(view, Live):
            stack.enter_context(view)
        asked = stack.enter_context(interrupts(lambda: _say_stopping(view)))
        yield view, stack.enter_context(Watchdog(asked, lambda text: _say_stopped(view, text)))


def _say_stopping(view: View) -> None:
    if isinstance(view, Live):
        view.notice = STOPPING  # drawn by the next refresh: printing inside a signal handler could tear the screen
    else:
        os.write(2, f"{STOPPING}\n".encode())


def _say_stopped(view: View, text: str) -> None:
    """The last line of a process that ends in the middle of something."""
    if isinstance(view, Live):
        view.__exit__(Stopped)  # gives the cursor back
    os.write(2, f"{text}\n".encode())


@contextlib.contextmanager
def interrupts(say: Callable[[], None]) -> Iterator[StopToken]:
    """Within: the first SIGINT or SIGTERM sets the stop token and calls ``say``, the next raises KeyboardInterrupt."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        with contextlib.suppress(OSError):
            say()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
