"""What becomes of an error: words on stderr with what to type next, an exit code, and the traceback in a file."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from selftaught.errors import SelftaughtError, Stopped, Waiting


def guarded(body: Callable[[], int]) -> int:
    """The exit code of ``body``; what it raises is explained on stderr."""
    try:
        code = body()
        sys.stdout.flush()
        return code
    except SelftaughtError as error:
        complain(f"error: {error}", error)
        return error.exit_code
    except (Stopped, KeyboardInterrupt) as error:
        complain("stopped.", error)
        return Stopped.exit_code
    except Waiting as error:
        complain(f"{error}", error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains again while it ends
        return 1
    except Exception as error:
        return unforeseen(error)


def unforeseen(error: Exception) -> int:
    if not getattr(error, "__notes__", None):
        error.add_note(f"The traceback is in {save_traceback(error)}")
    first = (str(error).strip().splitlines() or [""])[0]
    complain(f"error: {type(error).__name__}: {first}", error)
    return 1


def complain(text: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):
        print("\n".join([text, *(f"  {note}" for note in getattr(error, "__notes__", []))]), file=sys.stderr)


def save_traceback(error: BaseException, folder: Path | None = None) -> Path | None:
    """Write the traceback to FOLDER/error.txt, else to a temporary file; None when neither can be written."""
    from selftaught.store import write_file

    text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    if folder is not None:
        with contextlib.suppress(OSError):
            write_file(folder / "error.txt", text)
            return folder / "error.txt"
    try:
        handle, name = tempfile.mkstemp(prefix="selftaught-error-", suffix=".txt")
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        return Path(name)
    except OSError:
        return None
