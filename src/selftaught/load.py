"""The one place that turns a name into a class: ``methods/self_consistency.py`` holds the method ``self_consistency``.

A member's file name is its name in a recipe; its class is the one public class of the module with an ``Options`` model.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from selftaught.config import Member, check, did_you_mean
from selftaught.errors import RecipeError


def members(family: str) -> list[str]:
    """Names in a family ("methods", "tasks", "engines", "filters")."""
    package = importlib.import_module(f"selftaught.{family}")
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    return sorted(n for n in names if n != "base" and not n.startswith("_"))


def member_class(family: str, name: str) -> type[Any]:
    known = members(family)
    if name not in known:
        raise RecipeError(f"{family}: there is no {name!r}{did_you_mean(name, known)}")
    module = importlib.import_module(f"selftaught.{family}.{name}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    found = [c for c in classes if not c.__name__.startswith("_") and hasattr(c, "Options")]
    assert len(found) == 1, f"selftaught.{family}.{name} must define exactly one member, found {found}"
    return found[0]


def make(family: str, member: Member) -> Any:
    """The member with its options checked. Raises RecipeError naming the unknown key."""
    cls = member_class(family, member.name)
    return cls(check(cls.Options, member.options, f"{family.rstrip('s')} {member.name}"))
