"""Text of a model where people read it, on a page or a terminal: what they would not see is spelled out."""

from __future__ import annotations

import unicodedata
from typing import Any

from markupsafe import Markup

FILLERS = (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0)
VARIATION_SELECTORS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
UNSEEN = frozenset(map(chr, FILLERS + VARIATION_SELECTORS))


def unseen(c: str) -> bool:
    """Whether a character leaves no ink of its own: bidi and zero-width controls, tags, lone surrogates, ..."""
    return c in UNSEEN or not (c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs")


def spelled(value: Any) -> Any:
    """Jinja's ``finalize``: in every string that reaches the page, unseen characters are spelled out: ⟨U+202E⟩."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(f"⟨U+{ord(c):04X}⟩" if unseen(c) else c for c in value)


def written(text: str) -> Markup:
    """Text of a model as HTML: escaped, unseen characters in a box of their own, which no text can draw."""
    box = Markup('<i class="unseen">{}</i>')
    return Markup("").join(box.format(spelled(c)) if unseen(c) else c for c in text)


# ---------------------------------------------------------------- on a terminal

TURNING = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    """Text that cannot move the cursor, colour the screen or turn the reading order: such characters become visible."""
    return "".join(_visible(c) if c in TURNING or unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _visible(c: str) -> str:
    if c in "\n\t":
        return c
    return chr(0x2400 + ord(c)) if ord(c) < 32 else f"\\u{ord(c):04x}"
