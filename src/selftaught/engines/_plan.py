"""How many rows to sample at once, from the memory that is free. Not asked yet: ``engine.max_rows`` says it."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.5  # of the free memory: the rest is for activations, for what else runs here, and for a wrong guess
STEP = 4  # rows: fewer, and some matrix products take another path (docs/LOG.md)


def slots_for(free_bytes: int, bytes_per_token: int, width: int, *, logit_bytes: int = 0, most: int = 256) -> int:
    """Rows of up to ``width`` tokens whose keys and values fit into ``SHARE`` of what is free; 1 to ``most``.

    ``bytes_per_token``: keys and values of one token in all layers. ``logit_bytes``: a row's logits for one position,
    which sampling holds about three times over (scaled, as probabilities, summed up). Multiples of ``STEP`` where
    there is room for that many.
    """
    row = bytes_per_token * width + 3 * logit_bytes
    rows = min(most, int(SHARE * free_bytes) // max(1, row))
    return max(1, rows - rows % STEP if rows >= STEP else rows)


def free_bytes(device: str = "cpu") -> int | None:
    """Memory that can be taken now, page cache that would be given back included; None where nobody says."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        return next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in names):
        return os.sysconf(names[0]) * os.sysconf(names[1])
    return None
