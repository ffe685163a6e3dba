"""The longest copied run, against looking at every run of every text."""

from __future__ import annotations

import random
from time import perf_counter

import numpy as np
import pytest

from selftaught.audits._spans import Shared, longest_shared

NOTHING = Shared(0, -1, 0, 0)
Texts = list[list[int]]


def some(draw: random.Random, many: int, longest: int, types: int) -> Texts:
    return [
        [draw.randrange(types) - 1 for _ in range(draw.randrange(longest + 1))] for _ in range(draw.randrange(many))
    ]


def longest(text: list[int], sources: Texts) -> tuple[int, int]:
    """(length, place in the text) of the first of the longest runs, by trying all of them."""
    for length in range(len(text), 0, -1):
        held = {tuple(s[i : i + length]) for s in sources for i in range(len(s) - length + 1)}
        for at in range(len(text) - length + 1):
            if tuple(text[at : at + length]) in held:
                return length, at
    return 0, 0


def holds(text: list[int], sources: Texts, shared: Shared) -> bool:
    """Whether the run stands where it is said to stand."""
    there = sources[shared.source][shared.at_source :][: shared.length]
    return len(there) == shared.length and there == text[shared.at_text :][: shared.length]


@pytest.mark.parametrize("types", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(100))
def test_it_is_the_longest_run_there_is(seed: int, types: int) -> None:
    draw = random.Random(seed * 100 + types)
    texts, sources = some(draw, 6, 20, types), some(draw, 6, 30, types)
    found = longest_shared(texts, sources)
    assert [(s.length, s.at_text) for s in found] == [longest(t, sources) for t in texts]
    for text, shared in zip(texts, found, strict=True):
        assert holds(text, sources, shared) if shared.length else shared == NOTHING


def test_a_run_by_hand() -> None:
    texts = [[9, 1, 2, 3, 9], [7, 7], [], [5, 6]]
    sources = [[0, 0], [4, 1, 2, 3], [5], [6]]
    assert longest_shared(texts, sources) == [Shared(3, 1, 1, 1), NOTHING, NOTHING, Shared(1, 2, 0, 0)]


def test_no_run_reaches_from_one_source_or_text_into_the_next() -> None:
    assert longest_shared([[1, 2, 3, 4]], [[1, 2], [3, 4]])[0].length == 2
    assert [s.length for s in longest_shared([[1, 2], [3, 4]], [[1, 2, 3, 4]])] == [2, 2]
    assert [s.length for s in longest_shared([[1, 2], []], [[1, 2], [], [3]])] == [2, 0], "ends are no tokens"


def test_nothing_is_shared_with_nothing() -> None:
    assert longest_shared([], [[1]]) == []
    assert longest_shared([[1], []], []) == longest_shared([[1], []], [[], []]) == [NOTHING, NOTHING]


def test_a_text_that_is_all_of_a_source() -> None:
    whole = list(range(1000))
    assert longest_shared([whole], [[5], whole]) == [Shared(1000, 1, 0, 0)]
    assert longest_shared([[-1, *whole, -2]], [whole]) == [Shared(1000, 0, 1, 0)]


def test_large_ids_are_told_apart() -> None:
    assert longest_shared([[2**62, 2**62 + 1]], [[2**62, 2**62 + 2]]) == [Shared(1, 0, 0, 0)]


@pytest.mark.parametrize("types", [1, 2, 30_000])
def test_neither_many_nor_repetitive_tokens_take_a_minute(types: int) -> None:
    """A million tokens of sources, of one token over and over too, and 320,000 of texts."""
    draw = np.random.Generator(np.random.Philox(types))
    sources, texts = (draw.integers(0, types, shape).tolist() for shape in ((1000, 1000), (2500, 128)))
    texts[7] = sources[500][100:228]
    start = perf_counter()
    found = longest_shared(texts, sources)
    assert perf_counter() - start < 60
    assert found[7].length == 128 and holds(texts[7], sources, found[7])
    assert all(holds(text, sources, shared) for text, shared in zip(texts[:100], found[:100], strict=True))
