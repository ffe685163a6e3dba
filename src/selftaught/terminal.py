"""What the commands share: how one is registered, the words that many take, and how results are printed."""

from __future__ import annotations

import functools
import json as json_
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from selftaught.mishaps import guarded

if TYPE_CHECKING:
    from rich.console import Console

    from selftaught.integrity import Check
    from selftaught.ledger import RunRecord

P = ParamSpec("P")
DEFAULT = "self_consistency"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]})  # fmt: skip

Words = Annotated[list[str] | None, typer.Argument(metavar="RECIPE | KEY=VALUE", show_default=False)]
Run = Annotated[str, typer.Argument(metavar="[RUN]", help="A run's name or folder.")]
Named = Annotated[str, typer.Argument(metavar="RUN", help='A run\'s name or folder, or "latest".')]
Runs = Annotated[Path | None, typer.Option("--runs", metavar="DIR", envvar="SELFTAUGHT_RUNS", show_envvar=False,
                                           help="Where runs lie. [./runs, or $SELFTAUGHT_RUNS]")]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the outcome only.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what could be proved; run nothing.")]


# ---------------------------------------------------------------- errors become words and exit codes


def command(body: Callable[P, int]) -> Callable[P, None]:
    """Register ``body`` as a command; it returns an exit code, and no traceback ever reaches the screen."""

    @functools.wraps(body)
    def inner(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(guarded(functools.partial(body, *args, **kwargs)))

    return app.command()(inner)


# ---------------------------------------------------------------- printing


def console() -> Console:
    from rich.console import Console

    return Console()


def dump(value: Any) -> int:
    print(json_.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))
    return 0


def said(how: Callable[[Any], None]) -> int:
    """Print with a function of tell.py, which is imported now and not for ``--help``."""
    from selftaught import tell

    how(tell)
    return 0


def checked(checks: list[Check], json: bool, code: int) -> int:
    """Print checks; ``code`` if one does not hold."""
    from dataclasses import asdict

    _ = dump([asdict(c) for c in checks]) if json else said(lambda tell: tell.checks(checks))
    return 0 if all(c.ok for c in checks) else code


def finish(record: RunRecord, quiet: bool, json: bool) -> int:
    """Print a finished run; the exit code is its outcome's."""
    from selftaught import tell

    return tell.finish(record, quiet, json, console())
