"""The bundled recipes, and a recipe by its name or path."""

from __future__ import annotations

import importlib.resources
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selftaught.config import Recipe, did_you_mean, parse_recipe, read_recipe, to_yaml
from selftaught.errors import RecipeError

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class RecipeInfo:
    """A bundled recipe; ``about`` is its first comment line."""

    name: str
    path: Path
    about: str


def recipes() -> list[RecipeInfo]:
    """The bundled recipes, those for the hub's models ("hub/NAME") last."""
    root = Path(str(importlib.resources.files("selftaught"))) / "recipes"
    found = [*sorted(root.glob("*.yaml")), *sorted(root.glob("hub/*.yaml"))]
    return [RecipeInfo(str(p.relative_to(root).with_suffix("")), p, _about(p)) for p in found]


def _about(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def resolve(recipe: str | Path | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by path or bundled name (``.yaml`` optional), with its overrides; RecipeError suggests one."""
    if isinstance(recipe, Recipe):
        return parse_recipe(to_yaml(recipe), "recipe", overrides) if overrides else recipe
    path = Path(recipe)
    if os.path.isfile(path) and path.suffix in DATA_SUFFIXES:
        raise RecipeError(f"{path} is a file of questions, not a recipe.",
                          hint=f"Write a recipe for it: selftaught init {shlex.quote(str(path))}")  # fmt: skip
    if os.path.isfile(path / "recipe.yaml"):
        raise RecipeError(f"{path} is a run, not a recipe.", hint=f"Go on with it: selftaught resume {path}")
    if os.path.isfile(path):
        return read_recipe(path, overrides)
    bundled = {info.name: info.path for info in recipes()}
    name = str(recipe).removeprefix("recipes/").removesuffix(".yaml")
    if name not in bundled:
        guess = did_you_mean(name, list(bundled)).partition("; known")[0] or "."
        raise RecipeError(f"There is no recipe {str(recipe)!r}{guess}",
                          hint=f"Bundled recipes: {', '.join(bundled)}. Or give a path.")  # fmt: skip
    return read_recipe(bundled[name], overrides)
