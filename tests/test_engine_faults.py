"""What may go wrong while an engine works: memory runs out, workers die or hang, training leaves the numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from selftaught import evaluate, gate
from selftaught.config import GateConfig
from selftaught.engines import _pool
from selftaught.engines._memory import Room, exhausted
from selftaught.engines._sample import Part
from selftaught.engines.base import Completion, Request, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError, NonFiniteError, OutOfMemory, Stopped, WorkerLost
from selftaught.rollout import rollout
from selftaught.store import folder_digest
from selftaught.tasks.world_sums import WorldSums
from selftaught.types import Checkpoint, Example, Report, Sampling

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")


class Heard(list[tuple[str, dict[str, Any]]]):
    """A Notice that remembers."""

    def __call__(self, event: str, **facts: str | int | float) -> None:
        self.append((event, facts))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"))


# ---------------------------------------------------------------- memory


def rows_that_fit(most: int, calls: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def work(rows: Sequence[int]) -> list[int]:
        calls.append(len(rows))
        if len(rows) > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate much")
        return [10 * r for r in rows]

    return work


def test_what_does_not_fit_is_halved_and_that_is_remembered_by_size() -> None:
    heard, calls = Heard(), list[int]()
    room = Room("samples", "hint", heard)
    assert room.run(rows_that_fit(3, calls), range(11), width=100) == [10 * r for r in range(11)]
    assert calls == [11, 5, 2, 2, 2, 2, 2, 1]
    assert [(f["rows"], f["now"]) for _, f in heard] == [(11, 5), (5, 2)]
    calls.clear()
    assert len(room.run(rows_that_fit(9, calls), range(11), width=50)) == 11
    assert calls == [4, 4, 3], "twice as many of half the width"


def test_one_row_too_many_says_what_to_lower() -> None:
    with pytest.raises(OutOfMemory, match=r"one row of samples, 100 tokens: .*allocate.*\n.*engine.max_rows") as found:
        Room(*_pool.SAMPLES, Heard()).run(rows_that_fit(0, []), range(4), width=100)
    assert found.value.exit_code == 1


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    import torch

    assert (
        exhausted(MemoryError()) and exhausted(torch.OutOfMemoryError("CUDA")) and exhausted(RuntimeError("bad_alloc"))
    )
    assert not exhausted(RuntimeError("shapes do not match")) and not exhausted(ValueError("out of memory"))
    with pytest.raises(ValueError, match="no such thing"):
        Room("samples", "", Heard()).run(_refuses, [1, 2], width=1)


def _refuses(rows: Sequence[int]) -> list[int]:
    raise ValueError("no such thing")


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from selftaught.engines.base import Request, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import OutOfMemory
from selftaught.types import Example, Sampling

what, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, dtype="float32", autocast=False, max_rows=600))
heard = []
engine.notice = lambda event, **facts: heard.append((event, facts))
checkpoint = engine.open(model)

def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft = resource.RLIM_INFINITY if megabytes is None else used + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
def samples(words):
    requests = [Request(checkpoint, (1, *((7 * i + k) % 250 + 5 for k in range(words))), 
                        Sampling(300, 1.0, max_tokens=8), tuple(range(300 * i, 300 * i + 300))) for i in range(2)]
    return [c for _, found in sorted(engine.generate(requests)) for c in found]
def scores(words):
    return engine.score(checkpoint, [tuple((7 * i + k) % 250 + 5 for k in range(words)) for i in range(32)])
def steps(words):
    examples = [Example((1, 5, 6 + i), (*((3 * i + k) % 250 + 5 for k in range(words)), 2), "t") for i in range(4)]
    job = TuneJob(checkpoint, examples, [[0, 1, 2, 3]] * 3, what, 1e-3, 1, 0.1, 1.0, 0.0, 4, 8, 7)
    return engine.tune(job, out)

work = {"samples": samples, "scores": scores}.get(what, steps)
work(5)
errors, low, high = 0, 20.0, 600.0
for _ in range(42):  # between what fits at once and what does not fit at all
    if high - low < 0.1:  # what is mapped by now has moved the window: look for it anew
        low, high = 20.0, 600.0
    megabytes = (low + high) / 2
    for path in out.iterdir():
        path.unlink()
    heard.clear()
    limit(megabytes)
    try:
        tight = work(1000)
    except OutOfMemory as error:
        assert not list(out.iterdir()), "nothing half written"
        errors, low = errors + 1, megabytes
        continue
    finally:
        limit(None)
    if heard:
        break
    high = megabytes
assert heard and {event for event, _ in heard} == {"out of memory"}, "it fitted at once"
print(megabytes, "MB,", errors, "errors;", heard, file=sys.stderr)
engine = TorchEngine(engine.options)  # one that knows nothing of the limit
wide = work(1000)
if what == "samples":
    assert [c.ids for c in tight] == [c.ids for c in wide]
    assert all(np.allclose(a.logprobs, b.logprobs, atol=1e-4) for a, b in zip(tight, wide))
elif what == "scores":
    assert np.allclose(tight, wide, atol=1e-4)
else:
    assert heard[-1][1]["now"] < 4096 and tight.tokens == wide.tokens
    assert np.allclose(tight.losses, wide.losses, rtol=1e-5)
    assert np.allclose(tight.grad_norms, wide.grad_norms, rtol=1e-4)
print("the same")
"""


SLOW = [pytest.param(what, marks=pytest.mark.slow) for what in ("lora", "full")]  # the window may be narrow


@linux
@pytest.mark.parametrize("what", ["samples", "scores", *SLOW])
def test_under_a_real_limit_less_is_done_at_once_with_the_same_result(tmp_path: Path, what: str) -> None:
    """Scorecard row 8: RLIMIT_AS around a tiny model and long rows. Steps keep their batch; errors leave nothing."""
    model = tiny.checkpoint(tmp_path / "model", context=1100)
    (tmp_path / "out").mkdir()
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", LIMITED, what, str(model), str(tmp_path / "out")],
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                           capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "the same\n"), found.stderr


@linux
def test_a_worker_out_of_memory_says_so_and_goes_on(tmp_path: Path) -> None:
    import resource

    model = tiny.checkpoint(tmp_path / "model", context=1100)
    with workers(2, max_rows=512) as engine:
        asked = some_requests(engine, model, count=4, words=900, n=512, max_tokens=4)
        every(engine, some_requests(engine, model))
        for pid in pids():
            used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(pid, resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
        found = every(engine, asked)
        assert set(engine.notice.events) == {"out of memory"}  # type: ignore[attr-defined]
    assert ids_of(found) == ids_of(every(alone(), asked))


# ---------------------------------------------------------------- workers


class workers:
    """An engine with worker processes, whose notices are kept; none of them outlives it."""

    def __init__(self, count: int, **options: Any) -> None:
        made = {"processes": count, "threads": 1, "dtype": "float32", **options}
        self.engine = TorchEngine(TorchEngine.Options.model_validate(made))
        self.engine.notice = Heard()

    def __enter__(self) -> TorchEngine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        assert not pids()


def alone(**options: Any) -> TorchEngine:
    return TorchEngine(TorchEngine.Options(processes=1, threads=1, dtype="float32", **options))


def some_requests(engine: TorchEngine, model: Path, count: int = 80, words: int = 3, n: int = 4,
                  max_tokens: int = 40) -> list[Request]:  # fmt: skip
    checkpoint, sampling = engine.open(str(model)), Sampling(n, 1.0, max_tokens=max_tokens)
    prompts = [(1, *((7 * i + k) % 250 + 5 for k in range(words + i % 5))) for i in range(count)]
    return [Request(checkpoint, p, sampling, tuple(range(n * i, n * i + n))) for i, p in enumerate(prompts)]


def every(engine: TorchEngine, requests: Sequence[Request], **how: Any) -> list[list[Completion]]:
    return [found for _, found in sorted(engine.generate(requests, **how), key=lambda item: item[0])]


def ids_of(found: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[c.ids for c in group] for group in found]


def pids() -> list[int]:
    """Our worker processes, by what the kernel says."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_ours(p)]


def _is_ours(process: Path) -> bool:
    try:
        state, parent = (process / "stat").read_text().rpartition(") ")[2].split()[:2]
        return int(parent) == os.getpid() and state != "Z" and b"spawn_main" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_an_error_in_a_worker_arrives_as_it_is(llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    with workers(2) as engine:
        asked = some_requests(engine, model)
        (model / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(ModelError, match=r"The model in .*model cannot be loaded"):
            every(engine, asked)


@linux
def test_half_the_workers_killed_again_and_again_change_nothing(llama: Path) -> None:
    """Scorecard row 10: after every other batch half of the workers are killed, whatever they do."""
    undisturbed = every(alone(max_rows=1), some_requests(alone(), llama))
    batches: list[int] = []
    victims: list[int] = []

    def kill(done: int, total: int, unit: str) -> None:
        batches.append(done)
        if len(batches) % 2 == 0 and done < total and (living := pids()):
            victims.append(living[len(victims) % len(living)])
            os.kill(victims[-1], signal.SIGKILL)

    with workers(2, max_rows=1) as engine:
        found = every(engine, some_requests(engine, llama), progress=kill)
        died = [facts for event, facts in engine.notice if event == "worker died"]  # type: ignore[attr-defined]
    assert len(batches) >= 20 and len(victims) >= 5 and died and {f["exit"] for f in died} == {"-9"}
    assert ids_of(found) == ids_of(undisturbed)
    flat = [(a, b) for x, y in zip(found, undisturbed, strict=True) for a, b in zip(x, y, strict=True)]
    assert all(np.allclose(a.logprobs, b.logprobs, atol=1e-4) for a, b in flat)


@linux
def test_work_that_kills_every_worker_ends_in_a_clear_error(llama: Path) -> None:
    over = threading.Event()

    def killer() -> None:
        while not over.wait(0.05):
            for pid in pids():
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        with workers(2, max_rows=1) as engine, pytest.raises(WorkerLost) as found:
            every(engine, some_requests(engine, llama))
    finally:
        over.set()
        thread.join()
    assert "exit code -9" in str(found.value) and "1 row, from sample" in str(found.value)
    assert "engine.processes=1" in str(found.value)
    deaths = [facts for event, facts in engine.notice if event == "worker died"]  # type: ignore[attr-defined]
    assert len(deaths) <= 2 * (2 + 4), "two for the batch of sixteen, and one for each halving, on each worker"


def test_halves_hold_every_row_once() -> None:
    parts = [Part(3, 0, 5), Part(4, 2, 3), Part(5, 0, 3)]
    for total in range(9, 1, -1):
        first, rest = _pool._halves(parts)
        assert abs(sum(map(len, first)) - sum(map(len, rest))) <= 1
        assert [(p.request, i) for p in (*first, *rest) for i in range(p.first, p.last)] == [
            (p.request, i) for p in parts for i in range(p.first, p.last)
        ]
        parts = _pool._halves(parts)[0] if total % 2 else parts


@linux
def test_a_worker_that_hangs_is_replaced_and_stop_is_answered_meanwhile(llama: Path) -> None:
    """A watchdog on tokens drawn, not on living processes: a stopped one lives, and draws nothing."""
    with workers(2, patience=10) as engine:
        asked = some_requests(engine, llama)
        undisturbed = every(engine, asked)
        os.kill(pids()[0], signal.SIGSTOP)
        asked_at = time.monotonic()
        with pytest.raises(Stopped):
            every(engine, asked, stop=lambda: time.monotonic() > asked_at + 1)
        assert time.monotonic() - asked_at < 1 + 10
        os.kill(pids()[-1], signal.SIGSTOP)
        assert ids_of(every(engine, asked)) == ids_of(undisturbed)
        assert "worker hung" in engine.notice.events  # type: ignore[attr-defined]


@linux
def test_work_that_hangs_twice_ends_in_a_clear_error(llama: Path) -> None:
    over = threading.Event()

    def stopper() -> None:
        while not over.wait(0.05):
            for pid in pids():
                os.kill(pid, signal.SIGSTOP)

    thread = threading.Thread(target=stopper)
    thread.start()
    try:
        with workers(2, patience=1) as engine, pytest.raises(WorkerLost, match=r"no token for 1 seconds, 2 times"):
            every(engine, some_requests(engine, llama))
    finally:
        over.set()
        thread.join()
    assert engine.notice.events.count("worker hung") <= 4  # type: ignore[attr-defined]


ORPHANS = """
import sys
from selftaught.engines.base import Request
from selftaught.engines.torch_engine import TorchEngine
from selftaught.types import Sampling

engine = TorchEngine(TorchEngine.Options(processes=2, threads=1))
llama, sampling = engine.open(sys.argv[1]), Sampling(64, 1.0, max_tokens=100)
requests = [Request(llama, (1, 30 + i % 200), sampling, tuple(range(64))) for i in range(2000)]
for _ in engine.generate(requests, progress=lambda done, *_: print(done, flush=True)):
    pass
"""


@linux
def test_workers_do_not_outlive_a_killed_run(llama: Path) -> None:
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", ORPHANS, str(llama)], stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as run:  # fmt: skip
        assert run.stdout is not None and run.stdout.readline()
        left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == run.pid]
        left = [p for p in left if b"spawn_main" in (p / "cmdline").read_bytes()]
        assert len(left) == 2
        run.kill()
    until = time.monotonic() + 10
    while any(_parent(p) is not None for p in left) and time.monotonic() < until:
        time.sleep(0.1)
    assert [_parent(p) for p in left] == [None, None]


def _parent(process: Path) -> int | None:
    """None for one that has ended."""
    try:
        state, parent = (process / "stat").read_text().rpartition(") ")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


# ---------------------------------------------------------------- training leaves the numbers


def example(weight: float = 1.0) -> Example:
    return Example((1, 5), (6, 7, 2), "text", weight=weight)


def test_a_step_that_left_the_numbers_is_skipped_and_counted_and_the_fourth_ends_the_job(
    llama: Path, tmp_path: Path
) -> None:
    """Scorecard row 7."""
    engine = alone(autocast=False)
    engine.notice = heard = Heard()
    parent = engine.open(str(llama))
    plan = TuneJob(parent, [example(), example(float("nan"))], [], "full", 1e-3, 1, 0.1, 1.0, 0.0, 4, 8, 7)
    (tmp_path / "three").mkdir()
    tuned = engine.tune(replace(plan, batches=[[0], [1], [0], [1], [1], [0]]), tmp_path / "three")
    assert [k for k, loss in enumerate(tuned.losses) if not np.isfinite(loss)] == [1, 3, 4]
    assert [(event, f["step"], f["refused"]) for event, f in heard] == [
        ("step refused", 1, 1),
        ("step refused", 3, 2),
        ("step refused", 4, 3),
    ]
    assert engine.open(str(tmp_path / "three")).digest != parent.digest
    (tmp_path / "four").mkdir()
    with pytest.raises(NonFiniteError, match=r"step 6 has loss nan .* after 3 refused steps. Nothing was saved"):
        engine.tune(replace(plan, batches=[[0], [1], [0], [1], [1], [0], [1], [0]]), tmp_path / "four")
    assert not list((tmp_path / "four").iterdir())
    assert engine.open(str(llama)).digest == parent.digest


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Checkpoint], tuple[Report, Report]]]:
    """Real answers of a checkpoint to sums and to the guard."""
    world = WorldSums(WorldSums.Options(train=40, dev=100, vault=1, guard=60, steps=[1, 2])).load(77)
    engine = alone()

    def answers(checkpoint: Checkpoint) -> tuple[Report, Report]:
        tokens = engine.tokens(checkpoint)
        found = []
        for name, suite in (("dev", world.dev), ("sort", world.guards["sort"])):
            rows = rollout(engine, checkpoint, tokens, suite, Sampling(max_tokens=64), world.checkers, run_seed=0)
            found.append(evaluate.answers(name, checkpoint, suite, rows, world))
        return found[0], found[1]

    yield answers
    engine.close()


def test_an_adapter_that_ran_away_is_rejected_by_its_answers_and_the_parent_is_as_it_was(
    judged: Callable[[Checkpoint], tuple[Report, Report]], tmp_path: Path
) -> None:
    """Fault F8: a trained LoRA, multiplied by fifty. Every number in it is finite."""
    from safetensors.torch import load_file, save_file

    engine = alone(autocast=False)
    parent = engine.open("bundled:sums")
    bytes_before = folder_digest(Path(parent.model))
    ids = engine.tokens(parent).encode("Q: 2+3\nA:")
    lesson = Example(ids, engine.tokens(parent).encode_completion(" 2+3=5\n#### 5"), "text")
    job = TuneJob(parent, [lesson], [[0]] * 4, "lora", 1e-3, 1, 0.1, 1.0, 0.0, 4, 8, 7)
    (tmp_path / "adapter").mkdir()
    engine.tune(job, tmp_path / "adapter")
    ran_away = Path(shutil.copytree(tmp_path / "adapter", tmp_path / "ran away"))
    weights = load_file(ran_away / "adapter_model.safetensors")
    save_file({k: 50 * w for k, w in weights.items()}, ran_away / "adapter_model.safetensors")
    before, sane, after = (judged(engine.open(str(m))) for m in (parent.model, tmp_path / "adapter", ran_away))
    config = GateConfig()
    decision = gate.decide(config, (before[0], after[0]), {"sort": (before[1], after[1], 0.03)})
    assert decision.outcome == "rejected" and decision.reason == "did not pass: gain on dev, guard: sort"
    assert before[0].metrics["accuracy"].value > 0.8 > 0.1 > after[0].metrics["accuracy"].value
    assert sane[0].metrics["accuracy"].value > 0.8, "as it was trained, it answers as before"
    assert folder_digest(Path(parent.model)) == bytes_before
