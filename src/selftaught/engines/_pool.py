"""Worker processes that sample, or try adapters, one batch each at a time.

What dies or hangs is replaced and its batch runs again, with the same results wherever and however often it runs. One
that costs two workers is run in halves (what killed them may have been its size); a single row that costs two more, or
a batch that hangs twice, ends in WorkerLost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pickle import PickleError
from types import ModuleType
from typing import Any

from selftaught.config import PromptConfig
from selftaught.engines import _load
from selftaught.engines._memory import SAMPLES, Room
from selftaught.engines.base import Notice, Request, StopToken, TrialJob
from selftaught.errors import Stopped, WorkerLost
from selftaught.types import Checkpoint

POLL_SECONDS = 0.2
BEAT_SECONDS = 0.5  # a worker says at most so often that it drew a token, or took a step
LIVES = 2  # workers that a batch may cost before it is halved
HANGS = 2  # times that it may hang


@dataclass(frozen=True)
class Served:
    """The model that a worker has to hold."""

    checkpoint: Checkpoint
    dtype: str
    prompt: PromptConfig
    slots: int
    kernels: str
    bf16: bool = False  # in trials
    free: int = 0  # bytes for adapters


Item = Request | TrialJob


@dataclass(frozen=True)
class Work:
    """Parts of requests that are done together, and what they have cost so far. A trial is a part of one row."""

    parts: Sequence[Any]
    deaths: int = 0
    hangs: int = 0

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)


class Pool:
    """``count`` workers, started as they are needed. ``patience``: seconds without token or step that count as hung."""

    def __init__(self, count: int, patience: float, notice: Notice) -> None:
        self.count, self.patience, self.notice = count, patience, notice
        self.workers: list[_Worker] = []
        self.inbox: queue.SimpleQueue[tuple[_Worker, str, Any]] = queue.SimpleQueue()

    def run(
        self, served: Served, requests: Sequence[Item], batches: Sequence[Any], stop: StopToken
    ) -> Iterator[list[tuple[Any, list[Any]]]]:
        """Yields lists of (part, a completion or Trialled per row), a batch each, as they finish. Stops within a second
        or so.

        One call at a time: what another one is busy with is not told apart from this one's.
        """
        assert not any(w.work for w in self.workers), "one call at a time: end the one before it first"
        largest = sorted(batches, key=lambda parts: -sum(len(p) for p in parts))
        waiting = deque(Work(parts) for parts in largest)
        try:
            while waiting or any(w.work for w in self.workers):
                self._hand_out(waiting, served, requests)
                heard = self._listen()
                if stop():
                    raise Stopped
                for worker, kind, load in heard:
                    if kind == "note":
                        self.notice(load[0], **_renumbered(worker.work, load[1]))
                    elif kind == "failed":
                        raise load
                    elif kind == "died":
                        waiting.extendleft(reversed(self._died(worker, requests)))
                    else:
                        parts = worker.rest().parts
                        self._hand_out(waiting, served, requests)  # before whoever asked takes its time
                        yield list(zip(parts, load, strict=True))
                for worker in [w for w in self.workers if w.work and w.silent > self.patience]:
                    waiting.appendleft(self._hung(worker, requests))
        finally:
            for worker in [w for w in self.workers if w.work]:
                self._drop(worker)

    def close(self) -> None:
        for worker in [*self.workers]:
            self._drop(worker)

    def _hand_out(self, waiting: deque[Work], served: Served, requests: Sequence[Item]) -> None:
        self.workers = [w for w in self.workers if w.work or w.process.is_alive()]
        idle = [w for w in self.workers if not w.work]
        while waiting and (idle or len(self.workers) < self.count):
            if not idle:
                idle = [_Worker(self.inbox)]
                self.workers += idle
            work = waiting.popleft()
            idle.pop().ask(work, (served, *_cut(requests, work.parts)))

    def _listen(self) -> list[tuple[_Worker, str, Any]]:
        """What the workers said, or nothing after a moment. The silence of the busy ones grows meanwhile.

        It grows by a second at most: a machine that slept, or a process that was stopped and goes on, has not waited.
        """
        began = time.monotonic()
        heard: list[tuple[_Worker, str, Any]] = []
        with contextlib.suppress(queue.Empty):
            heard.append(self.inbox.get(timeout=POLL_SECONDS))
        for worker in self.workers:
            worker.silent = 0.0 if worker.beat.is_set() else worker.silent + min(1.0, time.monotonic() - began)
            worker.beat.clear()
        return [(worker, kind, load) for worker, kind, load in heard if worker in self.workers]

    def _died(self, worker: _Worker, requests: Sequence[Item]) -> list[Work]:
        worker.process.join(1)  # its pipe closes before it is gone, and its exit code should be its own
        work = self._drop(worker)
        work = replace(work, deaths=work.deaths + 1)
        code = worker.process.exitcode
        self.notice("worker died", exit=str(code), rows=len(work), deaths=work.deaths)
        if work.deaths < LIVES:
            return [work]
        if len(work) == 1:
            raise WorkerLost(
                f"A worker process died (exit code {code}) again and again while it {_named(work, requests)}.",
                hint="The system's log may say what killed it (memory?). engine.processes=1 does without workers.",
            )
        return [replace(work, parts=half, deaths=LIVES - 1) for half in _halves(work.parts)]

    def _hung(self, worker: _Worker, requests: Sequence[Item]) -> Work:
        work = self._drop(worker)
        work = replace(work, hangs=work.hangs + 1)
        self.notice("worker hung", seconds=round(worker.silent, 1), rows=len(work), hangs=work.hangs)
        if work.hangs >= HANGS:
            raise WorkerLost(
                f"A worker process took no step and drew no token for {self.patience:g} seconds, {work.hangs} times, "
                f"while it {_named(work, requests)}.",
                hint="On a very slow machine raise engine.patience; engine.processes=1 does without workers.",
            )
        return work

    def _drop(self, worker: _Worker) -> Work:
        """End a worker, whatever state it is in; what it had to do."""
        self.workers.remove(worker)
        worker.process.kill()  # a stopped process hears nothing milder
        worker.process.join()
        return worker.rest()


class _Worker:
    """A process, and while it works a thread that talks to it: a pipe may block, and the loop must not."""

    def __init__(self, inbox: queue.SimpleQueue[tuple[_Worker, str, Any]]) -> None:
        context = get_context("spawn")
        self.inbox = inbox
        self.work: Work | None = None
        self.silent = 0.0
        self.beat = threading.Event()
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far,), daemon=True)
        with _without_main():
            self.process.start()
        far.close()  # so that this end closes when the worker dies

    def ask(self, work: Work, job: tuple[Any, ...]) -> None:
        self.work, self.silent = work, 0.0
        threading.Thread(target=self._talk, args=(job,), daemon=True).start()

    def rest(self) -> Work:
        """Has nothing to do any more; what it had."""
        work, self.work = self.work, None
        return work or Work(())

    def _talk(self, job: tuple[Any, ...]) -> None:
        try:
            self.pipe.send(job)
            kind = "beat"
            while kind not in ("done", "failed"):
                kind, load = self.pipe.recv()
                self.beat.set()
                if kind != "beat":
                    self.inbox.put((self, kind, load))
        except (EOFError, OSError):
            self.inbox.put((self, "died", None))
        except Exception as error:  # what cannot be pickled, there or back
            self.inbox.put((self, "failed", error))


# ---------------------------------------------------------------- small parts


def _cut(requests: Sequence[Item], parts: Sequence[Any]) -> tuple[list[Item], list[Any]]:
    """Only what one batch needs, renumbered, to send to a worker."""
    return [requests[p.request] for p in parts], [replace(p, request=k) for k, p in enumerate(parts)]


def _renumbered(work: Work | None, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a worker, with the job's index in the whole call."""
    return facts | {"job": work.parts[facts["job"]].request} if work and "job" in facts else facts


def _halves(parts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Parts of the first half of the rows, and of the rest."""
    first: list[Any] = []
    rest: list[Any] = []
    left = sum(len(p) for p in parts) // 2
    for part in parts:
        middle = part.first + min(left, len(part))
        first += [replace(part, last=middle)] if middle > part.first else []
        rest += [replace(part, first=middle)] if middle < part.last else []
        left -= middle - part.first
    return first, rest


def _named(work: Work, requests: Sequence[Item]) -> str:
    part = work.parts[0]
    first = requests[part.request]
    if isinstance(first, TrialJob):
        adapters = "1 adapter" if len(work) == 1 else f"{len(work)} adapters, the first"
        return f"tried {adapters} of {len(first.job.batches)} steps"
    rows = "1 row" if len(work) == 1 else f"{len(work)} rows"
    return f"sampled {rows}, from sample {part.first} of a prompt of {len(first.prompt_ids)} tokens on"


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """While a worker starts, no ``__main__``: else it runs the user's script again, which may hold no guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# ---------------------------------------------------------------- inside a worker


def _serve(pipe: Any) -> None:
    """One job after the other, until the parent is gone; it hears of steps and tokens, and may end us at any time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    import torch
    import transformers  # noqa: F401  the slow part of a start, so that it is over before the first word

    torch.set_num_threads(1)
    parent, held = os.getppid(), _Held(lambda event, **facts: pipe.send(("note", (event, facts))))
    last = 0.0

    def pulse() -> bool:
        nonlocal last
        if time.monotonic() - last > BEAT_SECONDS:
            last = time.monotonic()
            pipe.send(("beat", None))
        return os.getppid() != parent

    with contextlib.suppress(EOFError, OSError, Stopped):
        pipe.send(("beat", None))
        while True:
            served, requests, parts = pipe.recv()
            answer: tuple[str, Any]
            try:
                answer = "done", held.do(served, requests, parts, pulse)
            except (OSError, Stopped):
                raise
            except Exception as error:
                error.add_note("In a worker process:\n" + traceback.format_exc())
                answer = "failed", error
            try:
                pipe.send(answer)
            except (TypeError, AttributeError, ValueError, PickleError):  # an error that cannot travel
                pipe.send(("failed", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


class _Held:
    """The one model that this worker has loaded."""

    def __init__(self, notice: Notice) -> None:
        self.digest, self.model = "", None
        self.room, self.notice = Room(*SAMPLES, notice), notice

    def do(self, served: Served, requests: list[Any], parts: list[Any], stop: StopToken) -> list[list[Any]]:
        """What each part asked for: completions, or a Trialled."""
        from selftaught.engines import _sample

        if self.digest != served.checkpoint.digest:
            self.model = None
            self.model = _load.load_model(served.checkpoint, served.dtype, "cpu")
            self.digest = served.checkpoint.digest
        tokens = _load.load_tokens(served.checkpoint.model, served.prompt)
        if isinstance(requests[0], TrialJob):
            from selftaught.engines import _trials

            tried = _trials.run(
                self.model, tokens, requests, bf16=served.bf16, slots=served.slots,
                free=served.free, stop=stop, notice=self.notice,
            )  # fmt: skip
            return [[found] for _, found in sorted(tried, key=lambda item: item[0])]
        found = _sample.sample(
            self.model, tokens, requests, parts, self.room, most=served.slots, kernels=served.kernels, stop=stop
        )
        by_part = dict(found)
        return [by_part[part] for part in parts]
