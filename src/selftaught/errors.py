"""Every error selftaught raises on purpose. Each message says what happened and what to do next.

    SelftaughtError                 exit code 1   (also what a crash in our own code counts as: "broken")
    ├── RecipeError                 exit code 2   a recipe or an override cannot be used
    ├── DataError                   exit code 2   a file of questions cannot be used as it is
    ├── ModelError                  exit code 2   a model folder or id cannot be used
    │   └── NonFiniteLogits         exit code 2   its logits are NaN or infinite, so nothing can be sampled from it
    ├── RunError                    exit code 2   a run folder cannot be found or used
    │   ├── RunLocked               exit code 6   another process works in the run folder
    │   └── DiskFull                exit code 3   paused: nothing more can be written; what is finished is kept
    ├── EndpointError               exit code 3   paused: a server does not answer as it should; what it did is kept
    ├── IntegrityError              exit code 7   something on disk is not what the record says
    ├── OutOfMemory                 exit code 1   the smallest piece of work does not fit into memory
    ├── WorkerLost                  exit code 1   a worker process died or hung again and again on the same work
    └── NonFiniteError              exit code 1   training left the numbers; the round is rejected, nothing is published

Control flow, not faults:
    Stopped                         exit code 4   Ctrl-C or a stop token; everything finished so far is kept
    Waiting                         exit code 10  somebody has to answer first; everything finished so far is kept
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SelftaughtError(Exception):
    """Root of the tree. ``hint`` is the sentence that says what to type next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[SelftaughtError], message: str, hint: str) -> SelftaughtError:
    return cls(message, hint=hint)


class RecipeError(SelftaughtError):
    exit_code = 2


class DataError(SelftaughtError):
    exit_code = 2


class ModelError(SelftaughtError):
    exit_code = 2


class NonFiniteLogits(ModelError):
    pass


class RunError(SelftaughtError):
    exit_code = 2


class RunLocked(RunError):
    exit_code = 6


class DiskFull(RunError):
    exit_code = 3


class EndpointError(SelftaughtError):
    exit_code = 3


class IntegrityError(SelftaughtError):
    exit_code = 7


class OutOfMemory(SelftaughtError):
    """One row at a time is still too much. Nothing half made was written."""


class WorkerLost(SelftaughtError):
    """The same samples cost more worker processes than they may. Nothing half made was written."""


class NonFiniteError(SelftaughtError):
    """A loss, a gradient or a weight became NaN or infinite."""


class Stopped(Exception):
    """Raised at a unit boundary after Ctrl-C or a stop request. Finished units are on disk."""

    exit_code = 4


class Waiting(Exception):
    """Raised where a run cannot go on before people have answered. ``queue`` holds the questions, ``missing`` how many.

    Silence is never consent: the run waits until every question has its answer.
    """

    exit_code = 10

    def __init__(self, queue: str, missing: int) -> None:
        super().__init__(f"waiting for {missing} answer{'' if missing == 1 else 's'} to {queue}")
        self.queue, self.missing = queue, missing


# ---------------------------------------------------------------- a full disk


def disk_is_full(error: Exception) -> bool:
    """Whether ``error`` says that no more can be written: no space, over quota, or over a limit on file size."""
    said = str(error)  # safetensors reports it in words, shutil in a list of them
    words = [word for code in FULL for word in (f"os error {code}", f"[Errno {code}]")]
    return (isinstance(error, OSError) and error.errno in FULL) or any(word in said for word in words)


@contextmanager
def noticing_a_full_disk(folder: Path) -> Iterator[None]:
    """Within, an error that says that ``folder`` can hold no more is a DiskFull, which says how much is free."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not disk_is_full(error):
            raise
        there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(there).free / 1e6
        raise DiskFull(
            f"Nothing more can be written to {folder}, {free:,.0f} MB are free there: {error}",
            hint="Free some space and go on; what is finished is kept.",
        ) from error
