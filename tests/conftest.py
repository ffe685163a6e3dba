"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with public data files (GSM8K, ...), which the project never commits."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("SELFTAUGHT_DATA", default)).resolve()
    if not (folder / "gsm8k" / "train.jsonl").is_file():
        pytest.skip(
            f"no public data in {folder}: set SELFTAUGHT_DATA to a folder with gsm8k/train.jsonl and test.jsonl"
        )
    return folder
