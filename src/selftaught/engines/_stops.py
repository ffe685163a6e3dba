"""Stop strings, found as a text grows by tokens: the same answer as decoding all of it each time, from its last tokens.

A stop string may begin and end inside tokens, and a token may end inside a character, whose last byte changes how the
bytes before it are read. Byte-level vocabularies read each byte by its neighbours; with byte fallback (sentencepiece)
a run of byte tokens is read as a whole, and as nothing but replacement characters if any of it is no UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
AROUND = (
    8  # tokens more than the longest stop string has bytes: a cut character, a space that decoding strips or tidies
)
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class Stops:
    """``stops`` over the ids of one vocabulary; keeps nothing between calls, so one serves all rows."""

    def __init__(self, tokens: Any, stops: Sequence[str]) -> None:
        self._decode, self._stops = tokens.decode, tuple(stops)
        tokenizer = tokens.tokenizer
        self._hidden = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._bytes = {i for piece, i in tokenizer.get_vocab().items() if BYTE.fullmatch(piece)}
        longest = max((len(s.encode("utf-8", "surrogatepass")) for s in stops), default=0)
        self._enough = 2 * longest + AROUND  # tidying spaces may halve a text
        self._all = any(UNREADABLE in s for s in stops)  # may be read out of a tail where the text has none

    def end(self, ids: Sequence[int]) -> bool:
        """Whether the last token completes a stop string: one stands in the text that stood not there without it."""
        if not self._stops or not ids:
            return False
        tail = ids[self._start(ids) :]
        text = self._decode(tail)
        if not any(s in text for s in self._stops):
            return False
        before = self._decode(tail[:-1])
        changed = next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), len(before))
        return any(s in text[max(0, changed - len(s) + 1) :] for s in self._stops)

    def _start(self, ids: Sequence[int]) -> int:
        """Where a tail begins that is long enough and cuts no run of bytes."""
        seen = 0
        for i in range(len(ids) - 1, -1, -1):
            seen += ids[i] not in self._hidden
            if seen >= self._enough and ids[i] not in self._bytes and ids[i] not in self._hidden and not self._all:
                return i
        return 0
