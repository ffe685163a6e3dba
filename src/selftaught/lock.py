"""Who may write a run: a lock that dies with its holder, and a refusal that says who holds it and what to type.

The lock is ``flock``. It belongs to an open file, and a forked child has that file open too: it would keep the lock
when its parent is killed. So every child closes what it inherited before it does anything else. (Record locks are not
inherited, but a process loses them when it closes any other descriptor of the file, as a reader in it does, and they
keep no two threads apart.) A child forked behind Python's back still has it; then the refusal names that child.

Over NFS ``flock`` needs the server's lock service, and of a holder on another machine only its name is known.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from selftaught.errors import RunLocked

TRIES = 4  # a reader holds the lock for an instant
PAUSE = 0.05  # seconds between tries

_open_locks: weakref.WeakSet[FileIO] = weakref.WeakSet()
_opening = threading.Lock()  # no fork between opening a file and noting it


@dataclass(frozen=True)
class Holder:
    """A process, told from a later one with the same number by its start (clock ticks since boot) and the boot."""

    pid: int
    host: str
    boot: str
    began: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended: only of a process of this machine since it was switched on."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return bool(self.began) and _began(self.pid) != self.began


def take(path: Path) -> FileIO:
    """The lock file ``path``, locked until it is closed. Raises RunLocked when another has it."""
    handle = _opened(path, "a+b")
    try:
        if not _locked(handle):
            raise _refusal(path)
        handle.truncate(0)
        me = Holder(os.getpid(), socket.gethostname(), _boot(), _began(os.getpid()))
        handle.write(json.dumps(asdict(me)).encode() + b"\n")
    except BaseException:
        handle.close()
        raise
    return handle


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Within, nobody else is within: for a moment's work, waiting for whoever is before us."""
    with _opened(path, "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether somebody has the lock right now. Writes nothing, and readers do not see each other."""
    try:
        with _opened(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or one we may not read: nobody we can see
        return False
    return False


def _opened(path: Path, mode: str) -> FileIO:
    with _opening:
        handle = FileIO(path, mode)
        _open_locks.add(handle)
    return handle


def _let_go() -> None:
    """In a forked child: the locks are the parent's."""
    for handle in list(_open_locks):
        handle.close()
    _opening.release()


os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_let_go)


def _locked(handle: FileIO) -> bool:
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(PAUSE)
    return False


# ---------------------------------------------------------------- who holds it


def _refusal(path: Path) -> RunLocked:
    folder, who = path.parent, holder(path)
    if who and who.ended:
        time.sleep(PAUSE)  # a new holder may have had no time yet to write its name
        who = holder(path)
    if not who or not who.ended:
        return RunLocked(
            f"{folder} is in use by {who or 'another process'}.",
            hint="Wait for it to end or stop it with Ctrl-C there; or start your own run with another name=...",
        )
    children = _keepers(path)
    named = ", ".join(f"process {pid}" for pid in children) or "a process"
    end = f"kill {' '.join(map(str, children))}" if children else f"fuser -v {path} names it"
    return RunLocked(
        f"{folder} was in use by {who}, which has ended; {named} that it started still keeps the lock.",
        hint=f"End what it left behind, and type your command again: {end}",
    )


def holder(path: Path) -> Holder | None:
    """Who wrote its name into the lock file, if it can be read."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _keepers(path: Path) -> list[int]:
    """Processes that have the lock through a file they have open, as far as /proc shows them to us."""
    found, target = set(), str(path.resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == target and "FLOCK" in (link.parents[1] / "fdinfo" / link.name).read_text():
                found.add(int(link.parts[2]))
    return sorted(found)


def _boot() -> str:
    """Names the time since this machine was switched on, and whose processes we see (a container has numbers of its
    own); "" where the system does not say."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _began(pid: int) -> str:
    """When a living process began, in clock ticks since boot; "" if it has ended or the system does not say."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""
