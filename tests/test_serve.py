"""A real server as the source: ``transformers serve`` with the bundled model, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import small
from selftaught import loop
from selftaught.engines import _chat
from selftaught.engines._folders import bundled_root
from selftaught.ledger import read_run
from selftaught.rows import read_rows
from selftaught.types import Rollout
from test_endpoint import answers, endpoint

COMMAND = (sys.executable, "-W", "ignore", "-m", "transformers.cli.transformers", "serve")
STARTS = 60  # seconds at most


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(url, model) of a server whose model samples: transformers serve heeds a temperature only where a model's
    generation_config says ``do_sample``."""
    folder = tmp_path_factory.mktemp("served") / "sums"
    shutil.copytree(bundled_root() / "sums", folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"do_sample": True}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, str(folder), "--port", port, "--device", "cpu"], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until = time.monotonic() + STARTS
        while not _listens(int(port)):
            assert process.poll() is None and time.monotonic() < until, "transformers serve did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_run_learns_from_what_a_real_server_samples(served: tuple[str, str], tmp_path: Path) -> None:
    url, model = served
    size = ("tasks.train=6", "tasks.dev=20", "tasks.vault=20", "tasks.guard=20", "method.samples=4", "train.replay=0")
    who = (f"roles.source.url={url}", f"roles.source.model={model}", "roles.source.concurrency=2")
    folder = small.prepared(tmp_path / "run", *size, *who)
    loop.run(folder)
    record = read_run(folder)
    assert record.final is not None
    counts = record.final.counts
    assert counts["source: samples"] == counts["source: requests"] == counts["source: re-tokenised"] == 24
    assert counts["source: prompt tokens"] > 24 and "source: requests without a count of tokens" not in counts
    rows = read_rows(folder / "round-000/rollouts/00-000/rows.parquet", Rollout)
    assert len({r.text for r in rows}) > 6, "it samples"
    answered = [r for r in rows if r.answer is not None]
    assert len(answered) >= 12 and counts["questions voted"] >= 3
    asked = {t.id: sum(map(int, t.question.split("+"))) for t in record_tasks(folder)}
    assert sum(r.answer == str(asked[r.task_id]) for r in answered) >= len(answered) // 3, "it can add"


def record_tasks(folder: Path):
    from selftaught.types import Task

    return read_rows(folder / "tasks" / "train.parquet", Task)


def test_a_real_server_cuts_off_and_is_greedy_where_it_is_asked_to_be(served: tuple[str, str]) -> None:
    url, model = served
    who = endpoint(url, model=model, deadline=30)
    [first] = answers(who, 1, 2, temperature=0.0)
    [short] = answers(who, 1, 1, max_tokens=2)
    assert first[0].ids == first[1].ids and first[0].finish == "stop" and short[0].finish == "length"


def test_a_real_server_says_what_it_does_not_take(served: tuple[str, str]) -> None:
    url, model = served
    [[c]] = answers(endpoint(url, model=model, deadline=30), 1, top_k=5)
    assert c.error == _chat.REFUSED, "it knows no top_k"
