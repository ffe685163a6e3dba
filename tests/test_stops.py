"""Stop strings: as exact as decoding the whole text after each token, however tokens and characters are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import pytest

import tiny
from selftaught.config import PromptConfig
from selftaught.engines._load import TextTokens
from selftaught.engines._stops import Stops
from vocabularies import byte_level, sentencepiece

STOPS = ("\n", " the", "日本", "😀", "answer is", "é", "\ufffd!", "#### 4", "aa", ". x", "</s>")
PARTS = ("The answer is 42.", " the", "\n", "日本", "日", "😀", " ", "naïve", "é", "a", "x", ".", "#### ", "4", "name")


class Watched(TextTokens):
    """Notes how many tokens it was asked to decode at a time."""

    def __init__(self, *made: object) -> None:
        super().__init__(*made)
        self.asked: list[int] = []

    def decode(self, ids: Sequence[int]) -> str:
        self.asked.append(len(ids))
        return super().decode(ids)


@lru_cache
def tokens(kind: str) -> Watched:
    made = {
        "byte_level": lambda: byte_level(added=("<think>",), bos_token="<s>", eos_token="</s>"),
        "sentencepiece": lambda: sentencepiece(added=("<think>",), bos_token="<s>", eos_token="</s>"),
        "bytes": tiny.tokenizer,
        "tidied": lambda: tidied(),
    }[kind]()
    return Watched(made, 4096, PromptConfig(), len(made))


def tidied():
    made = byte_level(eos_token="</s>")
    made.clean_up_tokenization_spaces = True
    return made


def some_ids(some: TextTokens, rng: random.Random) -> list[int]:
    """Text in its usual tokens, in those of its parts, and now and then any token, special ones and stray bytes too."""
    ids: list[int] = []
    while len(ids) < 60:
        text = "".join(rng.choices(PARTS, k=rng.randint(1, 6)))
        pieces = [text] if rng.random() < 0.5 else list(text)
        ids += [i for piece in pieces for i in some.tokenizer.encode(piece, add_special_tokens=False)]
        if rng.random() < 0.4:
            ids += rng.choices(range(len(some.tokenizer)), k=rng.randint(1, 3))
    return ids


KINDS = ["byte_level", "sentencepiece", "bytes", "tidied"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_ends_at_the_token_at_which_the_whole_text_first_holds_a_stop_string(kind: str) -> None:
    some, rng = tokens(kind), random.Random(7)
    found = cut = 0
    for _ in range(200):
        ids = some_ids(some, rng)
        wanted = tuple(rng.sample(STOPS, k=rng.randint(1, 3)))
        stops = Stops(some, wanted)
        texts = [some.decode(ids[:n]) for n in range(len(ids) + 1)]
        first = next((n for n, text in enumerate(texts) if any(s in text for s in wanted)), None)
        assert next((n for n in range(len(ids) + 1) if stops.end(ids[:n])), None) == first, (wanted, texts[-1])
        found += first is not None
        cut += first is not None and not any(s in some.decode(ids[first - 1 : first]) for s in wanted)
    assert 60 < found < 200 and cut > 20, "in about half, and often not within one token"


@pytest.mark.parametrize("kind", KINDS)
def test_every_later_stop_string_is_seen_too_and_none_twice(kind: str) -> None:
    """What ``min_tokens`` asks: a stop string that came too early does not end the sample at a later token."""
    some, rng = tokens(kind), random.Random(11)
    for _ in range(100):
        ids, wanted = some_ids(some, rng), rng.choice(STOPS[:5])
        stops = Stops(some, (wanted,))
        for n in range(1, len(ids) + 1):
            before, after = some.decode(ids[: n - 1]), some.decode(ids[:n])
            more = after.count(wanted) > before.count(wanted)
            assert stops.end(ids[:n]) >= more
            if after.startswith(before) and not more:
                assert not stops.end(ids[:n])


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_only_a_bounded_tail_is_decoded(kind: str) -> None:
    some = tokens(kind)
    ids = some.encode("The answer is 42, the name is 😀 and 日本. " * 40)
    stops = Stops(some, ("never",))
    some.asked.clear()
    assert not any(stops.end(ids[:n]) for n in range(len(ids) + 1))
    assert len(ids) > 600 and max(some.asked) < 2 * 5 + 8 + 16, "and at most a run of bytes more"


def test_nothing_stops_without_a_stop_string_or_without_a_token() -> None:
    some = tokens("byte_level")
    assert not Stops(some, ()).end(some.encode("\n"))
    assert not Stops(some, ("\n",)).end(())
