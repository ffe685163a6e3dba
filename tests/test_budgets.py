"""What keeps the house small: lengths, docstrings, stages that know no method, tests that say something."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import median

from selftaught import load

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "selftaught"
LONGEST_FUNCTION = 80
MEDIAN_FUNCTION = 12
LONGEST_FILE = 400
BLIND = (
    "judge.py",
    "replay.py",
    "control.py",
    "setting.py",
    "people.py",
    "train.py",
    "curate.py",
    "bench.py",
    "round.py",
    "loop.py",
)  # stages that must work for any method

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.py"))}


def functions(text: str) -> list[Function]:
    return [n for n in ast.walk(ast.parse(text)) if isinstance(n, Function)]


def height(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_function_is_taller_than_a_screen() -> None:
    tall = [
        f"{name}:{f.lineno} {f.name}: {height(f)} lines"
        for name, text in sources(SRC).items()
        for f in functions(text)
        if height(f) > LONGEST_FUNCTION
    ]
    assert not tall, f"over {LONGEST_FUNCTION} lines, split it: {tall}"


def test_most_functions_are_short() -> None:
    middle = median(height(f) for text in sources(SRC).values() for f in functions(text))
    assert middle <= MEDIAN_FUNCTION, f"the median function has {middle} lines, at most {MEDIAN_FUNCTION}"


def test_no_file_is_long() -> None:
    long = {name: lines for name, text in sources(SRC).items() if (lines := text.count("\n")) > LONGEST_FILE}
    assert not long, f"over {LONGEST_FILE} lines, one idea per file: {long}"


def test_stages_know_no_method() -> None:
    names = re.compile(r"\b(" + "|".join(map(re.escape, load.members("methods"))) + r")\b")
    named = [f"{file}: {found[0]}" for file in BLIND if (found := names.findall((SRC / file).read_text("utf-8")))]
    assert not named, f"a stage works for any method; these name one: {named}"


def test_every_public_module_says_what_it_is() -> None:
    silent = [
        n
        for n, text in sources(SRC).items()
        if (not Path(n).name.startswith("_") or n.endswith("__init__.py")) and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent, f"no docstring: {silent}"


def test_every_test_asserts_something() -> None:
    idle = [
        f"{name}: {f.name}"
        for name, text in sources(ROOT / "tests").items()
        for f in functions(text)
        if f.name.startswith("test_") and not asserts(f)
    ]
    assert not idle, f"tests without an assert or raises: {idle}"


def asserts(function: Function) -> bool:
    return any(
        isinstance(n, ast.Assert) or (isinstance(n, ast.Attribute) and n.attr in ("raises", "warns"))
        for n in ast.walk(function)
    )


def test_no_test_replaces_what_it_tests() -> None:
    words = ("unittest" + ".mock", "monkeypatch.set" + "attr", "mock" + "er")
    users = {n for n, text in sources(ROOT / "tests").items() if any(w in text for w in words)}
    assert not users, f"use the shipped fakes, or watch from outside (watching.py), not patches: {users}"


def test_an_idle_test_is_recognised() -> None:
    busy, idle = functions("def test_a():\n    with pytest.raises(E): f()\ndef test_b():\n    f()")
    assert asserts(busy) and not asserts(idle)
