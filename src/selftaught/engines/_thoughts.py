"""Thoughts: what a reasoning model writes between two markers before it answers.

What counts as said is what follows the last block, and a block that is never closed says nothing. Templates that open
the block themselves (Qwen3, DeepSeek-R1) leave completions with a closing marker alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

KNOWN = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3 and most others
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi
)
FIELDS = ("reasoning_content", "thinking")  # of transformers' response templates


class Markers(NamedTuple):
    """What opens a block of thoughts and what closes it."""

    open: str
    close: str

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt ends where thoughts begin."""
        return prompt.rstrip().endswith(self.open)

    def said(self, text: str, opened: bool) -> str | None:
        """What a completion says after its thoughts; None while it still thinks. ``opened``: by its prompt."""
        _, closed, after = text.rpartition(self.close)
        return None if self.open in after or (opened and not closed) else after


def markers(tokenizer: Any) -> Markers:
    """What the tokenizer's response template says, else the first known pair in its vocabulary, else <think>."""
    fields = (getattr(tokenizer, "response_template", None) or {}).get("fields", {})
    for name in FIELDS:
        pair = [fields.get(name, {}).get(end) for end in ("open", "close")]
        if all(isinstance(marker, str) and marker.strip() for marker in pair):
            return Markers(*(marker.strip() for marker in pair))
    vocabulary = tokenizer.get_vocab()
    return Markers(*next((pair for pair in KNOWN if set(pair) <= vocabulary.keys()), KNOWN[0]))
