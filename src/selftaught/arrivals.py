"""Watch a folder: when enough new questions have arrived, run a round on them, within an envelope declared before.

What arrives is trained on and never judges: the recipe names a labelled file (``tasks.holdout``) for dev and vault.
Each run begins with the last model that was accepted. It ends when ``watch.runs`` are done or the looks are spent;
nothing that arrives can widen that. What was taken, and for which run, stands in ``.watched.jsonl`` in the folder, so a
watch that was killed goes on with the run it was at.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftaught import ledger, load, loop
from selftaught.config import Member, Recipe
from selftaught.engines.base import StopToken, never
from selftaught.errors import RecipeError, Stopped
from selftaught.stopping import heeding
from selftaught.store import append_line, file_digest, mend, read_lines, write_file
from selftaught.tasks.base import wording
from selftaught.types import Message
from selftaught.view import Silent, View

STATE = ".watched.jsonl"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
NAP = 0.2  # seconds between two looks at the stop token


@dataclass
class Watch:
    """``root`` is where runs lie; ``view`` hears what is done; ``stop`` ends it between runs, or a run in order."""

    folder: Path
    recipe: Recipe
    root: Path
    view: View
    stop: StopToken

    def __post_init__(self) -> None:
        if not self.recipe.tasks.options.get("holdout"):
            raise RecipeError(
                "A watch needs labelled questions of its own that judge: what arrives is only learned from.",
                hint="Set tasks.name=jsonl and tasks.holdout=FILE in the recipe.",
            )
        mend(self.folder / STATE)

    def rounds(self, *, once: bool = False) -> Iterator[ledger.RunRecord]:
        """One finished run after the other; ``once``: only what is there now, without waiting for more."""
        if (last := self._entries()[-1:]) and not self._record(last[0]).over:
            yield self._run(last[0])
        seen: dict[Path, tuple[int, int]] = {}
        while not (why := self._spent()):
            fresh = self._fresh(None if once else seen)
            questions = self._questions(fresh)
            if len(questions) >= self.recipe.watch.min_questions:
                yield self._run(self._begin(fresh, questions))
            elif once:
                why = (
                    f"{len(questions)} new questions, fewer than watch.min_questions={self.recipe.watch.min_questions}"
                )
                break
            else:
                self._wait()
        self.view.line(f"the watch ends: {why}")

    # ------------------------------------------------------------ what arrived

    def _entries(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / STATE)

    def _fresh(self, seen: dict[Path, tuple[int, int]] | None) -> list[Path]:
        """Files that were not taken yet; with ``seen``, only those that did not change since the last glance."""
        taken = {digest for e in self._entries() for digest in e["files"].values()}
        there = [p for p in sorted(self.folder.iterdir()) if p.suffix in SUFFIXES and not p.name.startswith(".")]
        found = [
            p for p in heeding(self.stop, there) if p.is_file() and not p.is_symlink() and file_digest(p) not in taken
        ]
        if seen is None:
            return found
        now = {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in found}
        still = [p for p in found if seen.get(p) == now[p]]
        seen.clear()
        seen.update(now)
        return still

    def _questions(self, files: Sequence[Path]) -> list[tuple[Message, ...]]:
        """Prompts that no earlier run was given, each once. Raises DataError for a file that cannot be read."""
        known = {wording(json.loads(line)["messages"]) for e in self._entries()
                 for line in (self.root / e["questions"]).read_text(encoding="utf-8").splitlines()}  # fmt: skip
        prompts: dict[Any, tuple[Message, ...]] = {}
        for path in heeding(self.stop, files):
            read = load.make("tasks", Member(name="jsonl", path=str(path))).read().questions  # type: ignore[call-arg]
            prompts |= {wording(q.prompt): tuple(q.prompt) for q in read.items}
        return [prompt for key, prompt in prompts.items() if key not in known]

    def _spent(self) -> str:
        """Why the envelope is used up, or ""."""
        watch, done = self.recipe.watch, self._entries()
        if len(done) >= watch.runs:
            return f"all {watch.runs} runs are done (watch.runs)"
        looks = watch.looks or self.recipe.gate.looks
        spent = self._looks()
        return f"{spent:g} of {looks} looks at the vault are spent" if spent >= looks else ""

    def _looks(self) -> float:
        entries = self._entries()
        if not entries:
            return 0.0
        vault = [t.id for t in loop.load_whole(self._record(entries[-1]).recipe).vault]
        earlier = ledger.looks_at(ledger.registry(self.recipe, self.root / "x"), vault)
        return round(ledger.spent(earlier, self.recipe.gate.alpha / self.recipe.gate.looks), 6)

    # ------------------------------------------------------------ runs

    def _begin(self, files: Sequence[Path], questions: Sequence[tuple[Message, ...]]) -> dict[str, Any]:
        """Note what is taken and for which run, before it is begun."""
        number = len(self._entries()) + 1
        name = f"{self.recipe.name}-watch-{number}"
        lines = [json.dumps({"messages": [dict(m) for m in prompt]}, ensure_ascii=False) for prompt in questions]
        write_file(self.root / f"{name}.jsonl", ("\n".join(lines) + "\n").encode())
        entry = {"run": name, "questions": f"{name}.jsonl", "files": {p.name: file_digest(p) for p in files},
                 "model": self._model()}  # fmt: skip
        append_line(self.folder / STATE, entry)
        self.view.line(f"{len(questions)} new questions: {name}")
        return entry

    def _run(self, entry: dict[str, Any]) -> ledger.RunRecord:
        folder = self.root / str(entry["run"])
        if not (folder / "recipe.yaml").exists():
            options = self.recipe.tasks.options | {"path": str(self.root / entry["questions"])}
            tasks = Member(name=self.recipe.tasks.name, **options)
            loop.prepare(
                self.recipe.model_copy(update={"tasks": tasks, "model": entry["model"]}), folder, stop=self.stop
            )
        loop.run(folder, view=self.view, stop=self.stop)
        return ledger.read_run(folder)

    def _model(self) -> str:
        """The last accepted model of this watch, else the recipe's."""
        good = [r for e in self._entries() if (r := self._record(e)).outcome in ledger.GOOD]
        return str(good[-1].kept) if good else self.recipe.model

    def _record(self, entry: dict[str, Any]) -> ledger.RunRecord:
        return ledger.read_run(self.root / str(entry["run"]))

    def _wait(self) -> None:
        until = time.monotonic() + self.recipe.watch.seconds
        while time.monotonic() < until:
            if self.stop():
                raise Stopped
            time.sleep(NAP)


def watch(
    folder: Path, recipe: Recipe, root: Path, *, once: bool = False, view: View | None = None, stop: StopToken = never,
    told: Callable[[ledger.RunRecord], None] = lambda record: None,
) -> list[ledger.RunRecord]:  # fmt: skip
    """Every run that the watch made; ``told`` hears of each when it is done.

    Raises RecipeError without ``tasks.holdout``, DataError for a file that cannot be read, Stopped and Waiting as a
    run does.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not a folder.", hint="Make it, and put files of questions there.")
    found = []
    for record in Watch(folder, recipe, root, view or Silent(), stop).rounds(once=once):
        told(record)
        found.append(record)
    return found
