"""Reject empty completions and examples too long to train on."""

from __future__ import annotations

from selftaught.config import Section
from selftaught.filters.base import Context, Filter
from selftaught.types import Example


class Length(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        self.limit = context.limits.max_tokens

    def reason(self, example: Example) -> str | None:
        if not example.completion_ids or not example.text.strip():
            return "empty completion"
        length = len(example.prompt_ids) + len(example.completion_ids)
        return f"{length} tokens, more than {self.limit} (curate.max_tokens)" if length > self.limit else None
