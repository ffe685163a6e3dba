"""What a filter is: a function of one example that returns the reason to reject it, or None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from selftaught.config import CurateConfig
from selftaught.types import Example, Task


@dataclass(frozen=True)
class Context:
    """What filters may consult: the limits, every held-out task, and the question an example answers."""

    limits: CurateConfig
    heldout: Sequence[Task]
    questions: dict[str, str] = field(default_factory=dict)  # task id -> question


class Filter(Protocol):
    def __init__(self, context: Context) -> None: ...

    def reason(self, example: Example) -> str | None:
        """Why the example is rejected (for people, with the numbers), or None to keep it."""
        ...
