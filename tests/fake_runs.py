"""A finished run folder, written through the Store as the loop does, without a loop: for tests of what reads runs."""

from __future__ import annotations

from pathlib import Path

from selftaught import evaluate, ledger
from selftaught.config import Recipe, check, to_yaml
from selftaught.gate import decide
from selftaught.rows import write_rows
from selftaught.store import Store, write_file
from selftaught.tasks.base import Checker, TaskSet
from selftaught.types import Checkpoint, Labels, Rollout, Round, Task

PARENT, CANDIDATE = Checkpoint("p" * 64, "parent"), Checkpoint("c" * 64, "parent", adapter="adapter")
EXACT = Checker("exact", lambda text: text.strip() or None, lambda a, b: a == b)
HOSTILE = "[bold]\x1b[31m wrong"  # what a model may write: markup and a terminal's escape sequence


def recipe(name: str = "fake") -> Recipe:
    data = {"name": name, "model": "scripted:0.5", "seed": 7,
            "method": {"name": "self_consistency"}, "tasks": {"name": "world_sums"}}  # fmt: skip
    found = check(Recipe, data, "fake")
    assert isinstance(found, Recipe)
    return found


def questions(split: str, count: int) -> tuple[Task, ...]:
    return tuple(
        Task(({"role": "user", "content": f"{split} {i}+1"},), str(i + 1), "exact", split) for i in range(count)
    )


def answers(tasks: tuple[Task, ...], author: Checkpoint, right: int) -> list[Rollout]:
    """The first ``right`` tasks are answered rightly, the others with hostile text."""
    texts = [t.answer or "" if i < right else HOSTILE for i, t in enumerate(tasks)]
    return [Rollout(t.id, 0, author.digest, "t", (1,), (2,), (-0.1,), text, 0, EXACT.parse(text))
            for t, text in zip(tasks, texts, strict=True)]  # fmt: skip


def make_run(root: Path, name: str = "fake-1", *, before: int = 40, after: int = 90, items: int = 100) -> Path:
    """A run on ``items`` dev questions of which the parent got ``before`` and the candidate ``after``."""
    folder = root / name
    write_file(folder / "recipe.yaml", to_yaml(recipe()).encode())
    dev = questions("dev", items)
    source = TaskSet((), dev, (), {}, {"exact": EXACT})
    with Store(folder) as store:
        store.unit("tasks", 0, "tasks", lambda out: _tasks(out, dev))
        reports = []
        for role, author, right in (("parent", PARENT, before), ("candidate", CANDIDATE, after)):
            rows = answers(dev, author, right)
            reports.append(evaluate.answers("dev", author, dev, rows, source))

            def write(out: Path, role: str = role, rows: list[Rollout] = rows) -> dict[str, str]:
                write_rows(out / "rows.parquet", Rollout, rows)
                write_file(out / "report.json", _json(reports[-1]))
                return {"role": role, "suite": "dev"}

            store.unit("evaluation", role, f"round-000/evaluate/{role}-dev", write)
        store.unit("candidate", 0, "round-000/candidate", _weights)
        decision = decide(recipe().gate, (reports[0], reports[1]), {})
        ledger.record(store, Round(0, PARENT.digest, CANDIDATE.digest, decision, {"sampled": 1200, "kept": 300},
                                   Labels(gate=True), "self_consistency"))  # fmt: skip
    return folder


def _json(found: object) -> bytes:
    from selftaught.types import as_json, canonical

    return canonical(as_json(found))


def _tasks(out: Path, dev: tuple[Task, ...]) -> dict[str, str]:
    write_rows(out / "dev.parquet", Task, dev)
    return {}


def _weights(out: Path) -> dict[str, str]:
    write_file(out / "adapter" / "adapter_config.json", b"{}")
    return {"kind_folder": "adapter"}
