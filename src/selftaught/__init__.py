"""selftaught: a language model writes its own training data and keeps what it learned only when there is proof.

``import selftaught`` offers the functions behind the commands, and imports nothing heavy before one is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selftaught.types import VERSION as __version__

__all__ = [
    "Answers",
    "RecipeInfo",
    "RunRecord",
    "__version__",
    "ask",
    "audit",
    "examine",
    "export_data",
    "export_model",
    "import_verdicts",
    "init",
    "plan",
    "promote",
    "recipes",
    "resume",
    "review",
    "rollback",
    "run",
    "runs",
    "show",
    "stop",
    "verify",
    "watch",
    "write_report",
]

if TYPE_CHECKING:
    from selftaught.api import (
        Answers,
        RecipeInfo,
        ask,
        audit,
        examine,
        export_data,
        export_model,
        import_verdicts,
        init,
        plan,
        promote,
        recipes,
        resume,
        review,
        rollback,
        run,
        runs,
        show,
        stop,
        verify,
        watch,
        write_report,
    )
    from selftaught.ledger import RunRecord
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'selftaught' has no attribute {name!r}")
        from selftaught import api

        value = globals()[name] = getattr(api, name)
        return value


def __dir__() -> list[str]:
    return list(__all__)
