"""Watch from outside what a process does to a folder, or let an act of it fail: nothing that is tested is replaced.

Python tells an audit hook of an act before it does it: of opening, renaming, cutting, linking, removing. Of an fsync it
says nothing, so store.py says that itself. A hook cannot be taken off again; the one here is idle unless ``watched``.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FSYNC = "selftaught.fsync"
ACTS = (FSYNC, "os.mkdir", "os.rename", "os.truncate", "os.link", "os.remove", "os.rmdir")
NEED_SPACE = ("open", "os.mkdir", FSYNC)
WRITING = os.O_WRONLY | os.O_RDWR

Tell = Callable[[str, Path], None]

_watchers: list[tuple[Path, Tell]] = []
_installed: list[bool] = []
_telling = threading.local()


class Full:
    """To be told by ``watched``: a disk that refuses everything from the ``act``-th act that needs space on."""

    def __init__(self, act: int, error: int = errno.ENOSPC, only: tuple[str, ...] = NEED_SPACE) -> None:
        self.act, self.error, self.only = act, error, only
        self.seen = 0

    def __call__(self, act: str, path: Path) -> None:
        self.seen += act in self.only
        if act in self.only and self.seen >= self.act:
            raise OSError(self.error, os.strerror(self.error), str(path))


@contextmanager
def watched(root: Path, tell: Tell) -> Iterator[None]:
    """Within, ``tell(act, path)`` is called before each act below ``root`` that changes it; if it raises, the act fails
    with that. What ``tell`` does itself is not told."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    _watchers.append((root, tell))
    try:
        yield
    finally:
        _watchers.remove((root, tell))


def _hook(event: str, args: tuple[Any, ...]) -> None:
    changes = event in ACTS or (event == "open" and (args[2] or 0) & WRITING)
    if not (_watchers and changes) or getattr(_telling, "now", False):
        return
    target = args[0]  # a path, or the number of an open file
    path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target))
    _telling.now = True
    try:
        for root, tell in list(_watchers):
            if path.is_relative_to(root):
                tell(event, path)
    finally:
        _telling.now = False
