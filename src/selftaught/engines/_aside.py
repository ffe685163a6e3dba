"""Run a coroutine on a thread of its own and take what it hands over, with an eye on the stop token.

It works under a running event loop too (a notebook has one), and a stop cancels whatever is waited for at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from selftaught.engines.base import StopToken
from selftaught.errors import Stopped

T = TypeVar("T")
LAST = 2.0  # seconds that what was cancelled has to come to an end


class Aside(Generic[T]):
    """A context manager. ``work`` is given the function that hands something over."""

    def __init__(self, work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[tuple[T, ...] | BaseException] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)

    def __enter__(self) -> Aside[T]:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(LAST)

    def items(self, stop: StopToken, wait: float) -> Iterator[T]:
        """What is handed over, as it comes. Raises what ``work`` raises, and Stopped."""
        while True:
            if stop():
                raise Stopped
            try:
                found = self._queue.get(timeout=wait)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            if not found:
                return
            yield found[0]

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
            self._queue.put(())
        except BaseException as error:
            self._queue.put(error)
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()
        await self._work(lambda item: self._queue.put((item,)))
