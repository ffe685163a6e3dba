"""Text as something to learn from or to score: how it begins, and how a long one is cut."""

from __future__ import annotations

from selftaught.engines.base import Tokens
from selftaught.errors import ModelError


def opening(tokens: Tokens) -> tuple[int, ...]:
    """What text that nobody asked for begins with: the begin token, else the end token; () where there is neither."""
    try:
        return tokens.encode("")
    except ModelError:
        return ()


def pieces(text: str, tokens: Tokens, most: int) -> list[tuple[tuple[int, ...], tuple[int, ...], str]]:
    """A text as (beginning, ids, words) of like lengths that fit the context and ``most`` tokens, the end token after
    the last. Each begins as unprompted text does."""
    prompt, ids = opening(tokens), tokens.encode_completion(text)
    room = max(1, min(tokens.context, most) - len(prompt))
    count = max(1, -(-len(ids) // room))  # of a text without a token too: a filter says that it is empty
    parts = [ids[len(ids) * i // count : len(ids) * (i + 1) // count] for i in range(count)]
    said = [text] if count == 1 else [tokens.decode(p) for p in parts]
    return [(prompt, part, words) for part, words in zip(parts, said, strict=True)]
