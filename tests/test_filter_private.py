"""The filter of private spans: the longest copy that is kept, and the shortest that is not."""

from __future__ import annotations

import time

import pytest

from selftaught.config import CurateConfig
from selftaught.curate import curate
from selftaught.filters.base import Context
from selftaught.filters.private import PrivateSpans
from selftaught.types import Example

SECRET = tuple(range(100, 220))


def context(span: int, *private: tuple[int, ...]) -> Context:
    return Context(CurateConfig(private_span=span), (), private=private)


def example(ids: tuple[int, ...], prompt: tuple[int, ...] = (1,), **more: str) -> Example:
    return Example(prompt, ids, " ".join(map(str, ids)), **more)


@pytest.mark.parametrize("start", [0, 7, 70])
def test_so_many_tokens_in_a_row_reject(start: int) -> None:
    judge = PrivateSpans(context(50, SECRET))
    assert judge.reason(example((3, *SECRET[start : start + 50], 4))) == (
        "50 tokens in a row of it stand in a private text"
    )
    assert judge.reason(example((3, *SECRET[start : start + 49], 4))) is None
    assert judge.reason(example((*SECRET[start : start + 25], 5, *SECRET[start + 25 : start + 50]))) is None, "broken"


def test_a_run_does_not_go_from_one_text_into_the_next() -> None:
    judge = PrivateSpans(context(50, SECRET[:60], SECRET[60:]))
    assert judge.reason(example(SECRET[30:90])) is None
    assert judge.reason(example(SECRET[5:60])) is not None and judge.reason(example(SECRET[60:115])) is not None


def test_what_is_not_learned_does_not_count() -> None:
    judge = PrivateSpans(context(50, SECRET))
    assert judge.reason(example((7, 8, 9), prompt=SECRET)) is None


def test_texts_shorter_than_the_span_and_a_span_of_nothing_reject_nothing() -> None:
    assert PrivateSpans(context(50, SECRET[:49])).reason(example(SECRET)) is None
    assert PrivateSpans(context(0, SECRET)).reason(example(SECRET)) is None
    assert PrivateSpans(context(50)).reason(example(SECRET)) is None


def test_the_recipe_s_span_is_asked_in_curate_and_real_text_too() -> None:
    some = [example(SECRET[:20]), example(SECRET[50:69]), example((*SECRET[60:90], 5), source="real")]
    found = curate(some, context(20, SECRET))
    assert found.kept == (some[1],)
    assert [(v.by, v.reason) for v in found.verdicts] == [
        ("filter:private", "20 tokens in a row of it stand in a private text")
    ] * 2


def test_a_million_private_tokens_are_known_in_seconds() -> None:
    million = tuple((i * 7919) % 50_021 for i in range(1_000_000))
    began = time.process_time()
    judge = PrivateSpans(context(50, million))
    assert judge.reason(example(million[777_000:777_060])) is not None
    assert judge.reason(example(million[777_000:777_049])) is None
    assert time.process_time() - began < 20
