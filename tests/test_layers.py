"""Imports flow down. The table below is the architecture; a module that is not in it has no place yet.

Read by ``ast``, so an import inside a function, or under TYPE_CHECKING, counts as any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "selftaught"
FAMILIES = ("audits", "engines", "filters", "methods", "tasks")

LAYERS: tuple[tuple[str, ...], ...] = (  # lowest first; a module may import what stands in an earlier row
    ("types", "visible"),
    ("errors",),
    ("lock",),
    ("strict_yaml", "store", "rows"),
    ("config",),
    ("champions", "mishaps", "replies"),
    ("paired", "figures"),
    ("ledger", "power", "view", *(f"{family}.base" for family in FAMILIES)),
    ("gate", "pieces", "plain", "private", "retrieval", "statements"),
    ("judging",),
    ("MEMBER",),  # every other module of a family folder
    ("load", "stopping"),
    ("settle", "rollout", "roles", "curate", "train", "evaluate", "collapse", "people"),
    ("opinions",),
    ("trial",),
    ("bench", "budget", "adapt"),
    ("texts", "measure", "questions"),
    ("auditing",),
    ("setting",),
    ("judge", "replay"),
    ("control",),
    ("round",),
    ("loop",),
    ("panels", "parts"),
    ("arms", "findings", "pairs", "trends"),
    ("report", "look", "summary", "integrity", "export"),
    ("promotion", "exam", "arrivals"),
    ("doctor", "inspection", "catalogue"),
    ("api", "live"),
    ("tell",),
    ("terminal",),
    ("",),  # selftaught itself: __init__.py offers what api has
    ("cli",),
    ("__main__",),
)
STAGES = (
    "settle",
    "rollout",
    "roles",
    "opinions",
    "trial",
    "adapt",
    "curate",
    "train",
    "evaluate",
    "collapse",
    "people",
    "bench",
    "budget",
    "texts",
    "auditing",
    "setting",
    "judge",
    "replay",
    "control",
    "round",
    "gate",
    "measure",
    "questions",
    "ledger",
    "loop",
    "report",
    "integrity",
    "export",
    "promotion",
    "exam",
    "inspection",
    "arrivals",
)
WITHIN_A_LAYER = {
    ("audits.base", "engines.base"),
    ("methods.base", "engines.base"),
    ("methods.base", "tasks.base"),
}  # tokens, checkers
MAY_IMPORT_MEMBERS = {"look": "tasks"}  # a look at data before there is a run reads it as the sources do


# ---------------------------------------------------------------- what imports what


def modules() -> dict[str, ast.Module]:
    """Dotted name below selftaught -> its syntax tree; "" is selftaught itself, "tasks" a family's __init__."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Our own modules that ``tree`` imports, wherever in it."""
    found = {target for node in ast.walk(tree) for target in _targets(node, name, known)}
    return found - {name}


def _targets(node: ast.AST, name: str, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _resolve(alias.name, known)
    elif isinstance(node, ast.ImportFrom):
        package = ["selftaught", *name.split(".")][: -node.level] if node.level else []
        source = ".".join([*package, *([node.module] if node.module else [])])
        for alias in node.names:
            yield from _resolve(f"{source}.{alias.name}", known)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        for word in node.args[:1]:  # import_module("selftaught.x") is an import too
            yield from _resolve(word.value, known) if isinstance(word, ast.Constant) else ()


def _resolve(dotted: str, known: set[str]) -> Iterator[str]:
    """The longest known module that ``dotted`` starts with: "selftaught.types.Task" -> "types"."""
    parts = dotted.split(".")
    if parts[0] == "selftaught":
        names = (".".join(parts[1:end]) for end in range(len(parts), 0, -1))
        yield next(n for n in names if n in known)


def graph() -> dict[str, set[str]]:
    trees = modules()
    return {name: imports(name, tree, set(trees)) for name, tree in trees.items()}


# ---------------------------------------------------------------- the rules


def family_of(name: str) -> str:
    return name.split(".")[0] if name.split(".")[0] in FAMILIES else ""


def is_member(name: str) -> bool:
    return bool(family_of(name)) and "." in name and not name.endswith(".base")


def layer(name: str) -> int | None:
    row = "MEMBER" if is_member(name) else name
    return next((number for number, names in enumerate(LAYERS) if row in names), None)


def complaint(name: str, target: str) -> str | None:
    """Why ``name`` may not import ``target``, or None."""
    if name in FAMILIES:
        return "a family's __init__ imports nothing"
    if target in FAMILIES:
        return "import the family's base, not the folder"
    if is_member(name) and target in STAGES:
        return "a member never imports a stage"
    if is_member(target):
        return _complaint_about_member(name, target)
    here, there = layer(name), layer(target)
    if here is None or there is None:
        return None  # test_every_module_has_a_layer says so
    if there > here:
        return "imports flow down"
    return "one layer, side by side" if here == there and (name, target) not in WITHIN_A_LAYER else None


def _complaint_about_member(name: str, target: str) -> str | None:
    if is_member(name):
        private = target.split(".")[-1].startswith("_")
        own = family_of(name) == family_of(target)
        return None if private and own else "a member imports bases and its own family's private parts only"
    allowed = MAY_IMPORT_MEMBERS.get(name) == family_of(target)
    return None if allowed else "only load.py reaches members, and only by name"


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle as a path that ends where it began, or []."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (search(t, [*path, name]) for t in sorted(edges.get(name, ())))), [])
        done.add(name)
        return found

    return next(filter(None, (search(name, []) for name in sorted(edges))), [])


def test_every_module_has_a_layer() -> None:
    homeless = [n for n in modules() if layer(n) is None and n not in FAMILIES]
    assert not homeless, f"give these modules a row in LAYERS (tests/test_layers.py): {homeless}"


def test_imports_flow_down() -> None:
    wrong = [
        f"{n or 'selftaught'} imports {t or 'selftaught'}: {why}"
        for n, targets in graph().items()
        for t in sorted(targets)
        if (why := complaint(n, t))
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_cycle() -> None:
    found = cycle(graph())
    assert not found, "imports go in a circle: " + " -> ".join(found)


def test_nothing_imports_the_command_line() -> None:
    importers = [n for n, targets in graph().items() if "cli" in targets and n != "__main__"]
    assert not importers, f"nothing imports cli: {importers}"


def test_only_load_imports_by_name() -> None:
    users = [n for n, tree in modules().items() if _imports_ours_by_name(tree)]
    assert users == ["load"], "load.py is the one place that turns a name into a class"


def _imports_ours_by_name(tree: ast.Module) -> bool:
    calls = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return any("selftaught" in call and re.match(r"([\w.]+\.)?(import_module|__import__)\(", call) for call in calls)


# ---------------------------------------------------------------- the rules trip on what they should


def edges_of(name: str, source: str, *others: str) -> set[str]:
    return imports(name, ast.parse(source), {"", name, "types", "store", "tasks", "tasks.base", "tasks.jsonl", *others})


def test_an_import_inside_a_function_is_seen() -> None:
    assert edges_of("errors", "def f():\n    from selftaught.store import Store") == {"store"}


def test_every_way_to_write_an_import_is_seen() -> None:
    assert edges_of("load", "import selftaught.store as s") == {"store"}
    assert edges_of("load", "from selftaught import store, types") == {"store", "types"}
    assert edges_of("load", "from . import store") == {"store"}
    assert edges_of("tasks.gsm8k", "from .base import Source\nfrom ..types import Task") == {"tasks.base", "types"}
    assert edges_of("load", "import importlib\nimportlib.import_module('selftaught.tasks.jsonl')") == {"tasks.jsonl"}
    assert edges_of("cli", "from selftaught import __version__") == {""}


def test_what_is_forbidden_is_named() -> None:
    assert complaint("types", "errors") == "imports flow down"
    assert complaint("rows", "store") == "one layer, side by side"
    assert complaint("methods.star", "ledger") == "a member never imports a stage"
    own = "a member imports bases and its own family's private parts only"
    assert complaint("methods.star", "methods.selfedit") == own
    assert complaint("methods.star", "tasks._checkers") == own
    assert complaint("curate", "filters.overlap") == "only load.py reaches members, and only by name"
    assert complaint("look", "methods.star") == "only load.py reaches members, and only by name"


def test_what_is_allowed_is_allowed() -> None:
    for name, target in [
        ("methods.star", "tasks.base"),
        ("tasks.jsonl", "tasks._read"),
        ("look", "tasks.jsonl"),
        ("look", "gate"),
        ("methods.base", "engines.base"),
        ("cli", ""),
    ]:
        assert complaint(name, target) is None, f"{name} may import {target}"


def test_a_cycle_is_named_from_end_to_end() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
