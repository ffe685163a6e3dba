"""Is this machine fit for a run? Versions, memory, space, and one question to the bundled model. Writes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from selftaught.config import Member, Recipe
from selftaught.errors import SelftaughtError
from selftaught.integrity import Check
from selftaught.loop import make_engine
from selftaught.rollout import rollout
from selftaught.tasks.base import NO_CHECKER
from selftaught.types import VERSION, Sampling, Task

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "pyarrow", "pydantic")
SPACE = 1e9  # bytes that a run of a small model may need
QUESTION, ANSWER = "17+25", "42"


def examine(runs: Path) -> list[Check]:
    """Every check, the cheap ones first. A fault names what to do."""
    checks: dict[str, Callable[[], tuple[bool, str]]] = {
        "selftaught": lambda: (True, f"{VERSION}, Python {platform.python_version()}, {platform.platform()}"),
        "libraries": _libraries,
        "processor": _processor,
        "space": lambda: _space(runs),
        "model": _model,
    }
    return [_ask(name, check) for name, check in checks.items()]


def _ask(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except (SelftaughtError, ImportError, OSError, RuntimeError) as error:
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _libraries() -> tuple[bool, str]:
    return True, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)


def _processor() -> tuple[bool, str]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found = f"{os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), {memory:.1f} GB of memory"
    graphics = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU that torch can use"
    return True, f"{found}, {graphics}"


def _space(runs: Path) -> tuple[bool, str]:
    there = next(p for p in (runs, *runs.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return False, f"{there} may not be written; choose another place with --runs DIR or SELFTAUGHT_RUNS"
    said = f"{free / 1e9:.1f} GB free in {there.resolve()}"
    return free > SPACE, said if free > SPACE else f"{said}: make room, a run may need {SPACE / 1e9:.0f} GB"


def _model() -> tuple[bool, str]:
    """The bundled model is there, loads, and adds two numbers."""
    name = str(Recipe.model_fields["model"].default)
    recipe = Recipe(method=Member(name="self_consistency"), tasks=Member(name="world_sums"))
    engine = make_engine(recipe)
    try:
        checkpoint = engine.open(name)
        task = Task(({"role": "user", "content": QUESTION},), checker="")
        sampling = Sampling(max_tokens=32)
        [row] = rollout(engine, checkpoint, engine.tokens(checkpoint), [task], sampling, {"": NO_CHECKER}, run_seed=0)
    finally:
        engine.close()
    said = f"{name} says of {QUESTION}: {' / '.join(row.text.split(chr(10)))}"
    return row.text.endswith(f"#### {ANSWER}"), said
