"""What a filter is: it sees examples in order, says of each why it is rejected, or None, and is told what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from selftaught.config import CurateConfig
from selftaught.types import Document, Example, Task


@dataclass(frozen=True)
class Context:
    """What filters may consult: the limits, every held-out task, the tasks that the examples answer, and the documents
    that tasks are about.
    """

    limits: CurateConfig
    heldout: Sequence[Task]
    asked: Mapping[str, Task] = field(default_factory=dict)  # by id
    documents: Mapping[str, Document] = field(default_factory=dict)  # by the group of those tasks
    private: Sequence[tuple[int, ...]] = ()  # what must not come out of a model again, as token ids

    def question(self, example: Example) -> str:
        """The question that ``example`` answers, or "" for text that nobody asked for."""
        task = self.asked.get(example.task_id)
        return task.question if task else ""


class Filter(Protocol):
    """A member names this class as its base; it says ``reason`` and leaves ``keep`` as it is if it needs no memory."""

    def __init__(self, context: Context) -> None:
        """Raises RecipeError for limits that cannot be used here; then nothing is sampled."""
        ...

    def reason(self, example: Example) -> str | None:
        """Why the example is rejected (for people, with the numbers), or None to keep it."""
        ...

    def keep(self, example: Example) -> None:
        """Told of every example that no filter rejects, right after its ``reason`` was None and before the next one."""
        return None
