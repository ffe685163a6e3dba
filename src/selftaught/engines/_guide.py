"""Guided decoding: which tokens may come next, so that a text can still become what a grammar wants.

The grammars are llguidance's (Earley parsing over a trie of the vocabulary). An end token is allowed only where the
text is complete, and no other special token ever is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from selftaught.errors import ModelError, RecipeError
from selftaught.types import Guide

SHOWN = 300  # characters of a parser's complaint


class Guides:
    """The rows of one batch under one guide, each with what it has written so far.

    ``rows`` counts them; ``width`` is the last dimension of the logits, which may be larger than the vocabulary.
    Raises RecipeError for a guide that cannot be compiled and ModelError for a model without an end token.
    """

    def __init__(self, tokens: Any, guide: Guide, ends: frozenset[int], width: int, rows: int) -> None:
        self._start = _compiled(tokens, guide, ends, width)
        self._guide, self._width = guide, width
        self._words = max(width, len(tokens.tokenizer))
        self._rows = [self._start.deep_copy() for _ in range(rows)]
        self._workers = _workers(torch.get_num_threads())

    def reset(self, row: int) -> None:
        """Begin a new text in a row."""
        self._rows[row] = self._start.deep_copy()

    def allowed(self, rows: Sequence[int]) -> torch.Tensor:
        """Whether each token may come next, a bool tensor [len(rows), width] on the CPU.

        Raises ModelError where no token may: the grammar asks for characters that the vocabulary cannot write.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        packed = allocate_token_bitmask(len(rows), self._words)
        if len(rows):  # of none it would refuse to make any
            fill_next_token_bitmask_par(self._workers, [(self._rows[r], i) for i, r in enumerate(rows)], packed)
        mask: Any = np.unpackbits(packed.view(np.uint8), axis=1, count=self._width, bitorder="little").view(bool)
        for row, some in zip(rows, np.any(mask, axis=1).tolist(), strict=True):
            if self._rows[row].is_error() or not some:
                raise self._stuck(row)
        return torch.from_numpy(mask)

    def take(self, rows: Sequence[int], ids: Sequence[int]) -> None:
        """Each row goes on by the token that was drawn for it. Raises ModelError for one that was not allowed."""
        for row, token in zip(rows, ids, strict=True):
            if not self._rows[row].consume_token(token):
                raise self._stuck(row)

    def _stuck(self, row: int) -> ModelError:
        said = self._rows[row].get_error()[:SHOWN] or "no token of the vocabulary can come next"
        return ModelError(
            f"A sample cannot go on under its guide ({self._guide.kind}): {said}.",
            hint="Can the tokenizer write every character that the guide asks for? A simpler guide may help.",
        )


def hold_open(allowed: torch.Tensor, ends: Sequence[int], early: torch.Tensor) -> torch.Tensor:
    """``allowed`` [rows, width] without ``ends`` in the rows that are too ``early`` [rows] to end (``min_tokens``).

    A row that could then do nothing keeps them.
    """
    more = allowed.clone()
    more[:, list(ends)] = False
    return torch.where((early & more.any(1))[:, None], more, allowed)


@lru_cache(maxsize=1)
def _workers(threads: int) -> Any:
    from llguidance import LLExecutor

    return LLExecutor(threads)


@lru_cache(maxsize=8)
def _vocabulary(tokens: Any, ends: frozenset[int], width: int) -> Any:
    """llguidance's view of the tokenizer; takes a second for a large one."""
    from llguidance.hf import from_tokenizer

    if not ends:
        raise ModelError(
            "The model has no end token, so a sample under a guide could not end.",
            hint="Set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json.",
        )
    try:
        return from_tokenizer(tokens.tokenizer, max(width, len(tokens.tokenizer)), sorted(ends))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"The tokenizer cannot be guided: {str(error)[:SHOWN]}", hint="Guides need a tokenizer.json."
        ) from error


@lru_cache(maxsize=64)
def _compiled(tokens: Any, guide: Guide, ends: frozenset[int], width: int) -> Any:
    """A matcher that has read nothing yet."""
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise RecipeError(
            "Guided sampling needs llguidance, which is not installed.", hint="pip install 'selftaught[guided]'"
        ) from error
    vocabulary = _vocabulary(tokens, ends, width)
    try:
        matcher = LLMatcher(vocabulary, _grammar(guide), log_level=0)
        said = matcher.get_error()
    except ValueError as error:  # JSON that is none
        said = str(error)
    if said:
        raise RecipeError(
            f"The guide ({guide.kind}) cannot be used: {said.strip()[:SHOWN]}",
            hint=f"Mend it: {guide.text[:80]!r}. See llguidance's pages on JSON schemas, regular expressions and Lark.",
        )
    return matcher


def _grammar(guide: Guide) -> str:
    from llguidance import grammar_from

    if guide.kind == "choice":
        texts = json.loads(guide.text)
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
            raise ValueError("a choice is a JSON list of texts, none of them empty")
    return str(grammar_from(guide.kind, guide.text))
