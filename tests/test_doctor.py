"""The doctor finds this machine fit, and says what is wrong where something is."""

from __future__ import annotations

from pathlib import Path

from selftaught.doctor import examine


def test_this_machine_is_fit_and_nothing_is_written(tmp_path: Path) -> None:
    checks = {c.name: c for c in examine(tmp_path / "not" / "yet")}
    assert all(c.ok for c in checks.values()), checks
    assert checks["model"].detail.endswith("#### 42") and "torch 2" in checks["libraries"].detail
    assert list(tmp_path.iterdir()) == []
