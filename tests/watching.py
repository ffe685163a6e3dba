"""Watch from outside what a process does to a folder, or let an act of it fail: nothing that is tested is replaced.

Python tells an audit hook of an act before it does it: of opening, renaming, cutting, linking, removing. Of an fsync it
says nothing, so store.py says that itself. A hook cannot be taken off again; the one here is idle unless ``watched``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FSYNC = "selftaught.fsync"
ACTS = (FSYNC, "os.mkdir", "os.rename", "os.truncate", "os.link", "os.remove", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR

Tell = Callable[[str, Path], None]

_watchers: list[tuple[Path, Tell]] = []
_installed: list[bool] = []


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
    if not _watchers or not (event in ACTS or (event == "open" and (args[2] or 0) & WRITING)):
        return
    target = args[0]
    path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target))
    for watcher in list(_watchers):
        root, tell = watcher
        if path.is_relative_to(root):
            _watchers.remove(watcher)
            try:
                tell(event, path)
            finally:
                _watchers.append(watcher)
