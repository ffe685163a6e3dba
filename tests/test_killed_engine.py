"""Real torch runs that are killed: at every durable act, between stages, at random moments, with workers and without.

Every attempt is forked from a process that has imported torch and never used it, so no thread is lost with the fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import small
import tiny
from selftaught import ledger

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import peft, pyarrow.parquet, torch, transformers  # here, so that no child has to
from transformers import AutoTokenizer, LlamaForCausalLM
from selftaught import load, loop, view
from selftaught.engines import _sample, _tune

for family in ("engines", "methods", "tasks", "filters"):
    for member in load.members(family):
        load.member_class(family, member)

class Deadly(view.Silent):
    # Dies as its stage-th stage begins; None: counts them
    def __init__(self, stage):
        self.left, self.seen = stage, 0
    def stage(self, name, detail=""):
        self.seen += 1
        if self.seen == self.left:
            os.kill(os.getpid(), signal.SIGKILL)

def attempt(folder, act=None, stage=None, seconds=None):
    # A child that dies just before its act-th durable act (a rename, or opening a file of the run to write), at the
    # beginning of a stage, or after so many seconds.
    child = os.fork()
    if child == 0:
        seen = 0
        def watch(event, args):
            nonlocal seen
            opened = event == "open" and str(folder.parent) in str(args[0])
            if opened and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR) or event in ("os.rename", "os.truncate"):
                seen += 1
                if seen == act:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        shown = Deadly(stage)
        loop.run(folder, view=shown)
        (folder.parent / "acts").write_text(f"{seen} {shown.seen}")
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

root, recipe, acts_too = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3] == "acts"
def prepare(name):
    folder = root / name / "run"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_bytes(recipe)
    return folder
began = time.monotonic()
assert attempt(prepare("whole")) == 0
whole = time.monotonic() - began
acts, stages = map(int, (root / "whole" / "acts").read_text().split())
print("whole", whole, acts, stages, file=sys.stderr, flush=True)
for kind, count in (("act", acts if acts_too else 0), ("stage", stages)):
    for number in range(1, count + 1):
        folder = prepare(f"{kind}-{number}")
        assert os.WTERMSIG(attempt(folder, **{kind: number})) == signal.SIGKILL
        print(kind, number, attempt(folder), flush=True)
moments = random.Random(20)
for number in range(30):
    folder = prepare(f"moment-{number}")
    attempt(folder, seconds=moments.uniform(0, whole))
    print("moment", number, attempt(folder), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kind"), [(1, "lora"), (2, "full")])
def test_a_real_run_killed_anywhere_ends_as_an_undisturbed_one(tmp_path: Path, processes: int, kind: str) -> None:
    """Scorecard rows 1 and 10: chain head, examples and weights, bit for bit."""
    recipe = tiny.run(tmp_path / "base", f"engine.processes={processes}", f"train.kind={kind}") / "recipe.yaml"
    where = [str(tmp_path / "runs"), str(recipe), "acts" if processes == 1 else "stages"]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, *where],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert len(lines) >= 30 + 7 and {status for *_, status in lines} == {"0"}, found.stderr
    whole = tmp_path / "runs" / "whole" / "run"
    record = ledger.read_run(whole)
    assert record.kept is not None and record.reports(), "it came to a candidate and judged it"
    digests = [e["unit"] for e in record.units("examples")], record.facts("candidate")["digest"]
    for name, number, _ in lines:
        folder = tmp_path / "runs" / f"{name}-{number}" / "run"
        said = f"killed at {name} {number}"
        again = ledger.read_run(folder)
        assert again.chain[-1]["hash"] == record.chain[-1]["hash"], said
        assert ([e["unit"] for e in again.units("examples")], again.facts("candidate")["digest"]) == digests, said
        assert small.bytes_of(folder) == small.bytes_of(whole), said
    stages = json.loads((whole / "journal.jsonl").read_text().splitlines()[-1])
    assert stages["event"] == "finished"
