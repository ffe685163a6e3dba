"""Who is trained on and who is held out: by hash and group, so that it depends on the questions and the seed alone.

Units (a group, or else a question) are ordered by hash and cut at the declared shares, so the sizes are as declared to
within one unit, whatever the order of the file; a unit never crosses a cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import Field, model_validator

from selftaught.config import Section
from selftaught.errors import DataError
from selftaught.tasks.base import Checker, Held, TaskSet, wording
from selftaught.types import Task, digest

NAMES = ("train", "dev", "vault", "test")
NO_LABELS = "no question has an answer: nothing can be proved, so the run will end `unproven`"


class Shares(Section):
    """How labelled questions are shared out. Where train needs none of them, dev and vault keep their proportion."""

    train: float = Field(default=0.4, ge=0, le=1)
    dev: float = Field(default=0.2, ge=0, le=1)
    vault: float = Field(default=0.4, ge=0, le=1)
    test: float = Field(default=0.0, ge=0, le=1)  # opened once: selftaught eval RUN --test
    limit: int | None = Field(default=None, ge=1)  # at most so many questions are trained on

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        total = self.train + self.dev + self.vault + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + dev + vault + test must be 1, they are {total:g}: set all of them")
        return self

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "dev": self.dev, "vault": self.vault, "test": self.test}


@dataclass(frozen=True)
class Split:
    train: tuple[Task, ...]
    dev: tuple[Task, ...]
    vault: tuple[Task, ...]
    test: tuple[Task, ...] = ()
    notes: tuple[str, ...] = ()


def prompt_key(task: Task) -> str:
    """Names a prompt up to case and white space."""
    return digest("prompt", wording(task.prompt))


def unit_key(task: Task, kin: Mapping[str, str] = {}) -> str:
    """Names what must stay together: the task's group, or what ``kin`` has for it, else its prompt."""
    return digest("group", kin.get(task.group, task.group)) if task.group is not None else prompt_key(task)


def by_hash(tasks: Iterable[Task], seed: int) -> list[Task]:
    """In an order that depends on the seed and the prompts alone."""
    return sorted(tasks, key=lambda t: digest("order", seed, t.id))


def dedupe(tasks: Sequence[Task], same: Callable[[str, str], bool]) -> tuple[list[Task], int]:
    """One task per prompt (up to case and white space), a labelled one where there is one, and how many were dropped.

    Raises DataError, naming both lines, where the same prompt has two answers that are not the ``same``.
    """
    kept: dict[str, Task] = {}
    for task in tasks:
        other = kept.setdefault(prompt_key(task), task)
        if other is task:
            continue
        if task.answer is not None and other.answer is not None and not same(task.answer, other.answer):
            raise DataError(
                f"{other.source} and {task.source}: the same question has two answers, "
                f"{other.answer[:80]!r} and {task.answer[:80]!r}.",
                hint="Keep the line that is right and delete the other.",
            )
        kept[prompt_key(task)] = min(other, task, key=lambda t: (t.answer is None, t.group or "", t.answer or "", t.id))
    return list(kept.values()), len(tasks) - len(kept)


def _cut(units: Sequence[Sequence[Task]], shares: Mapping[str, float]) -> dict[str, list[Task]]:
    """Units, in order, into consecutive parts; a unit belongs to the part in which its first task falls."""
    whole, total = sum(len(u) for u in units), sum(shares.values())
    ends, reached = [], 0.0
    for name in NAMES:
        reached += shares.get(name, 0.0)
        ends.append((name, round(whole * reached / total) if total else 0))
    parts: dict[str, list[Task]] = {name: [] for name in NAMES}
    position = 0
    for unit in units:
        part = next((name for name, end in ends if position < end), "train")
        parts[part] += [replace(t, split=part) for t in unit]
        position += len(unit)
    return parts


def split(tasks: Sequence[Task], shares: Mapping[str, float], seed: int, kin: Mapping[str, str] = {}) -> Split:
    """Labelled tasks by ``shares`` ({"train": .4, "dev": .2, "vault": .4}, scaled to add up to 1); the rest to train.

    A group with an unlabelled task goes to train as a whole, so that no group crosses; groups for which ``kin`` has the
    same name go together too. Tasks come out in hash order.
    """
    units: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        units[unit_key(task, kin)].append(task)
    ordered = [units[key] for key in sorted(units, key=lambda k: digest("split", seed, k))]
    free = [u for u in ordered if all(t.answer is not None for t in u)]
    pinned = [t for u in ordered for t in u if any(other.answer is None for other in u)]
    parts = _cut(free, shares)
    parts["train"] += [replace(t, split="train") for t in pinned]
    labelled = sum(t.answer is not None for t in pinned)
    return Split(**{name: tuple(by_hash(parts[name], seed)) for name in NAMES}, notes=_notes(parts, shares, labelled))


def _notes(parts: Mapping[str, Sequence[Task]], shares: Mapping[str, float], pinned: int) -> tuple[str, ...]:
    notes = []
    if pinned:
        notes.append(f"{pinned} labelled questions are trained on because their group has unlabelled ones")
    empty = [name for name in ("dev", "vault", "test") if shares.get(name) and not parts[name]]
    if empty and any(t.answer is not None for part in parts.values() for t in part):
        notes.append(f"nothing fell to {' and '.join(empty)}: too few labelled questions or groups")
    return tuple(notes)


def apart(tasks: Sequence[Task], held_out: Iterable[Task]) -> tuple[tuple[Task, ...], int]:
    """``tasks`` without those that show a prompt of ``held_out``, alone or inside a conversation, and how many went."""
    held = Held(t.prompt for t in held_out)
    kept = tuple(t for t in tasks if not held.shows(t.prompt))
    return kept, len(tasks) - len(kept)


def other_groups(tasks: Sequence[Task], held_out: Iterable[Task]) -> tuple[tuple[Task, ...], int]:
    """``tasks`` without those whose group also stands in ``held_out``, and how many went."""
    taken = {t.group for t in held_out} - {None}
    kept = tuple(t for t in tasks if t.group not in taken)
    return kept, len(tasks) - len(kept)


@dataclass(frozen=True)
class Pool:
    """What was read, before it is split. ``holdout`` None: dev and vault come out of ``tasks``. ``kin``: see split."""

    tasks: Sequence[Task]
    holdout: Sequence[Task] | None
    guard: Sequence[Task]
    checkers: Mapping[str, Checker]
    notes: tuple[str, ...] = ()
    kin: Mapping[str, str] = field(default_factory=dict)


def assemble(pool: Pool, shares: Mapping[str, float], seed: int, *, limit: int | None = None) -> TaskSet:
    """Deduplicate, split, keep the suites apart, and cut train to ``limit``. Without a share of train all are held out.

    Unlabelled questions, or a holdout of their own, leave all labelled ones of the split file to dev and vault.
    Raises DataError for conflicting answers and where nothing is left to train on.
    """
    tasks, holdout, guard, dropped = _without_duplicates(pool)
    held_only = {name: share for name, share in shares.items() if name != "train"}
    if holdout is not None:
        parts = split(holdout, held_only, seed, pool.kin)
        parts = replace(parts, train=tuple(replace(t, split="train") for t in by_hash(tasks, seed)))
    else:
        unlabelled = any(t.answer is None for t in tasks)
        parts = split(tasks, held_only if unlabelled else shares, seed, pool.kin)
    dev, from_dev = apart(parts.dev, parts.vault)
    test, from_test = apart(parts.test, (*dev, *parts.vault))
    guard_tasks, from_guard = apart(by_hash(guard, seed), (*dev, *parts.vault, *test))
    held_out = (*dev, *parts.vault, *test, *guard_tasks)
    train, from_train = apart(parts.train, held_out)
    train, from_groups = other_groups(train, held_out)
    counts = {"duplicate questions dropped": dropped,
              "questions dropped from train because they are held out": from_train,
              "questions dropped from train because their group is held out": from_groups,
              "questions dropped from dev because they are in the vault": from_dev,
              "questions dropped from test because they are in dev or the vault": from_test,
              "questions dropped from guard because they are in dev or vault": from_guard}  # fmt: skip
    went = [f"{count} {what}" for what, count in counts.items() if count]
    notes = [*pool.notes, *parts.notes, *went]
    if not (dev or parts.vault) and not any(t.answer for t in train):
        notes.append(NO_LABELS)
    return TaskSet(
        train=_first(train, limit, went) if "train" in shares else train,
        dev=dev,
        vault=parts.vault,
        guards={"guard": tuple(replace(t, split="guard") for t in guard_tasks)} if guard_tasks else {},
        checkers=pool.checkers,
        notes=tuple(notes),
        test=test,
    )


def _without_duplicates(pool: Pool) -> tuple[list[Task], list[Task] | None, list[Task], int]:
    def clean(tasks: Sequence[Task]) -> tuple[list[Task], int]:
        return dedupe(tasks, pool.checkers[tasks[0].checker].same) if tasks else ([], 0)

    tasks, first = clean(pool.tasks)
    holdout, second = clean(pool.holdout or ())
    guard, third = clean(pool.guard)
    return tasks, holdout if pool.holdout is not None else None, guard, first + second + third


def _first(train: Sequence[Task], limit: int | None, went: Sequence[str]) -> tuple[Task, ...]:
    """The first ``limit`` in hash order: a smaller set is always part of a larger one. ``went``: what was dropped."""
    if not train:
        raise DataError(
            f"No question is left to train on{': ' if went else ''}{', '.join(went)}.",
            hint="Add questions (answers are optional), or raise tasks.train, the share that is trained on.",
        )
    return tuple(train[:limit])
