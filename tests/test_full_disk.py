"""A full disk, wherever something is written: said in those words, nothing half, and it goes on when there is space."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import small
from selftaught import api, cli, errors, ledger, loop, mishaps, store
from selftaught.errors import DiskFull
from selftaught.export import export
from watching import Full, watched


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.prepared(tmp_path_factory.mktemp("runs") / "run", "tasks.train=20")
    assert loop.run(folder).decision.outcome == "proved"
    return folder


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Within, no file grows beyond ``size`` bytes: the kernel refuses it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".tmp-")]


def every_act(folder: Path) -> Iterator[Full]:
    """A disk that is full at the first act that needs space, then one at the second, ... until nothing was full."""
    for act in range(1, 100):
        full = Full(act)
        yield full
        if full.seen < act:
            assert act > 2, "it was full somewhere"
            return


# ---------------------------------------------------------------- looks


def test_a_look_is_spent_whole_or_not_at_all(tmp_path: Path) -> None:
    for full in every_act(tmp_path):
        registry = tmp_path / f"{full.act}" / "looks.jsonl"
        with watched(registry.parent, full):
            try:
                assert ledger.spend_look(registry, ["v"], "a", "r") == 1
            except OSError as error:
                assert errors.disk_is_full(error) and error.errno == errno.ENOSPC
                assert [e["candidate"] for e in ledger.read_lines(registry)] in ([], ["a"]), "whole, or not there"
        assert [ledger.spend_look(registry, ["v"], c, "r") for c in "abab"] == [1, 2, 1, 2]


def test_a_look_for_which_the_kernel_has_no_space_is_not_spent(tmp_path: Path) -> None:
    registry = tmp_path / "looks.jsonl"
    ledger.spend_look(registry, ["v"], "a", "r")
    before = registry.read_bytes()
    with file_size_limit(len(before) + 20), pytest.raises(OSError, match="File too large") as full:
        ledger.spend_look(registry, ["v"], "b", "r")
    assert errors.disk_is_full(full.value) and registry.read_bytes() == before
    assert ledger.spend_look(registry, ["v"], "b", "r") == 2


# ---------------------------------------------------------------- reports, exports, beginnings


def test_a_report_is_written_whole_or_the_one_before_stays(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for before in (None, b"the report of yesterday"):
        for full in every_act(folder):
            (folder / "report.html").unlink(missing_ok=True)
            if before:
                (folder / "report.html").write_bytes(before)
            with watched(folder, full):
                try:
                    api.write_report(folder)
                except DiskFull as error:
                    assert "Nothing more can be written to" in error.message and "MB are free there" in error.message
                    written = (folder / "report.html").read_bytes() if (folder / "report.html").exists() else None
                    assert written == before or (written or b"").endswith(b"</html>"), "but not yet for good"
            assert leftovers(folder) == []
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_report_for_which_the_kernel_has_no_space_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    with file_size_limit(5000):
        code = mishaps.guarded(lambda: cli.report.__wrapped__(str(folder)))
    assert code == DiskFull.exit_code == 3
    assert "Free some space and go on" in capsys.readouterr().err
    assert leftovers(folder) == [] and not (folder / "report.html").exists()


def test_a_model_is_exported_whole_or_not_at_all(finished: Path, tmp_path: Path) -> None:
    record = ledger.read_run(finished)
    for full in every_act(tmp_path):
        out = tmp_path / str(full.act) / "model"
        with watched(tmp_path, full):
            try:
                export(record, out)
            except DiskFull as error:
                assert f"Nothing more can be written to {out}" in error.message
                assert out.exists() <= (out / "README.md").exists(), "there whole, but not yet for good"
        assert leftovers(tmp_path) == []
        shutil.rmtree(tmp_path / str(full.act), ignore_errors=True)
    with file_size_limit(100), pytest.raises(DiskFull, match="File too large"):
        export(record, tmp_path / "large" / "model")
    assert leftovers(tmp_path) == [] and not (tmp_path / "large" / "model").exists()


def test_a_run_that_cannot_even_begin_says_so_and_leaves_no_run(tmp_path: Path) -> None:
    for full in every_act(tmp_path):
        with watched(tmp_path, full):
            try:
                loop.prepare(small.recipe(), tmp_path / str(full.act))
            except DiskFull:
                assert ledger.list_runs(tmp_path) in ([], [tmp_path / str(full.act)])
        shutil.rmtree(tmp_path / str(full.act), ignore_errors=True)


def test_a_copy_that_ran_out_of_space_is_known_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "weights").write_bytes(b"x" * 1000)
    with file_size_limit(10), pytest.raises(shutil.Error) as copied:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert copied.value.errno is None and errors.disk_is_full(copied.value)
    assert not errors.disk_is_full(shutil.Error([("a", "b", "[Errno 13] Permission denied: 'b'")]))
    assert not errors.disk_is_full(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def test_a_file_that_could_not_be_replaced_is_the_one_it_was(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    store.write_file(path, b"one")
    with file_size_limit(10), pytest.raises(OSError, match="File too large"):
        store.write_file(path, b"two" * 10)
    assert path.read_bytes() == b"one" and leftovers(tmp_path) == []
