"""How many rows fit into memory."""

from __future__ import annotations

import os
import sys

import pytest

from selftaught.engines._plan import SHARE, STEP, free_bytes, slots_for

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "per_token", "width", "rows"),
    [
        (8 * GIB, 4096, 128, 256),  # a tiny model: as many as are allowed
        (8 * GIB, 114_688, 4096, 8),  # 0.6 B parameters, long rows: 9.1 fit
        (8 * GIB, 114_688, 16_384, 2),  # fewer than STEP
        (1 << 20, 114_688, 4096, 1),  # not even one: it is tried all the same, and memory that runs out is heard
    ],
)
def test_rows_are_those_that_fit(free: int, per_token: int, width: int, rows: int) -> None:
    assert slots_for(free, per_token, width) == rows


def test_what_fits_never_takes_more_than_its_share() -> None:
    for free in range(GIB, 40 * GIB, 3 * GIB):
        for width in (64, 1000, 4096):
            for logits in (0, 600_000):
                rows = slots_for(free, 28_672, width, logit_bytes=logits, most=10_000)
                assert rows * (28_672 * width + 3 * logits) <= SHARE * free and rows % STEP == 0
                assert (rows + STEP) * (28_672 * width + 3 * logits) > SHARE * free or rows + STEP > 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_free_memory_is_some_and_no_more_than_there_is() -> None:
    free = free_bytes()
    assert free is not None and 0 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
