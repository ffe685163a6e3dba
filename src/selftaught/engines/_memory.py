"""When memory does not suffice: take fewer rows at once, say so, and give up in words when one is too many."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from selftaught.engines.base import Notice
from selftaught.errors import OutOfMemory

T = TypeVar("T")
R = TypeVar("R")

SAMPLES = "samples", "Lower engine.max_rows or method.max_tokens, or set engine.dtype=bfloat16."
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
UNKNOWN = 2 << 30  # bytes taken to be free where nobody says
PHRASES = (  # of RuntimeErrors: torch's CPU allocator, C++, CUDA's libraries
    "can't allocate memory",
    "bad_alloc",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out: MemoryError, torch.OutOfMemoryError, or a RuntimeError in the words of an allocator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in PHRASES)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def free_bytes(device: str, group: str = "/sys/fs/cgroup") -> int:
    """Bytes that may still be taken: of the GPU; of this machine, or the control group that the process is held in."""
    if device == "cuda":
        cuda = sys.modules["torch"].cuda
        return int(cuda.mem_get_info()[0] + cuda.memory_reserved() - cuda.memory_allocated())
    said = _read("/proc/meminfo").partition("MemAvailable:")[2].split()
    free = int(said[0]) * 1024 if said else UNKNOWN
    most, used = _read(f"{group}/memory.max").strip(), _read(f"{group}/memory.current").strip()
    if not (most.isdigit() and used.isdigit()):
        return free
    words = (line.split() for line in _read(f"{group}/memory.stat").splitlines())
    files = sum(int(n) for name, n in words if name in ("inactive_file", "active_file"))  # given back when asked for
    return max(0, min(free, int(most) - int(used) + files))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def release() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def keep_freed() -> None:
    """Let glibc keep up to a GiB of what is freed: to give it back and take it again costs a fault for every page.

    Elsewhere nothing is done.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 1 << 25)


@contextlib.contextmanager
def enough(what: str, hint: str) -> Iterator[None]:
    """Where nothing smaller can be tried, memory that does not suffice ends as OutOfMemory."""
    try:
        yield
    except Exception as error:
        if not exhausted(error):
            raise
        raise OutOfMemory(f"Memory does not suffice {what}: {first_line(error)}", hint=hint) from error


class Room:
    """What fits into memory at once, learnt by running out of it. Each time halves it, and ``notice`` hears of it."""

    def __init__(self, what: str, hint: str, notice: Notice) -> None:
        self.what, self.hint, self.notice = what, hint, notice
        self.cells: int | None = None  # rows times width; None: all that are asked for

    def run(self, work: Callable[[Sequence[T]], Sequence[R]], rows: Sequence[T], width: int) -> list[R]:
        """``work(rows)``, each of at most ``width`` tokens, in as few pieces as fit, in order.

        ``work`` gives one result per row, which may not depend on the rows beside it. Raises OutOfMemory when a row
        alone is too large.
        """
        found: list[R] = []
        while len(found) < len(rows):
            left = rows[len(found) :]
            some = left[: self.rows(len(left), width)]
            try:
                found += work(some)
                continue
            except Exception as error:
                if not exhausted(error):
                    raise
                said = first_line(error)
            self.halve(len(some), width, said)  # out here, where nothing of the failed attempt lives on
        return found

    def rows(self, most: int, width: int) -> int:
        """How many of ``most`` rows of up to ``width`` tokens fit, as far as is known."""
        return most if self.cells is None else min(most, max(1, self.cells // max(1, width)))

    def halve(self, rows: int, width: int, said: str) -> None:
        """``rows`` did not fit. Raises OutOfMemory when that was one."""
        release()
        if rows == 1:
            raise OutOfMemory(
                f"Memory does not suffice for one row of {self.what}, {width} tokens: {said}", hint=self.hint
            )
        self.cells = rows // 2 * width
        self.notice("out of memory", during=self.what, rows=rows, now=rows // 2, said=said)
