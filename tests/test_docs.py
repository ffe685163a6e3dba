"""The pages agree with the code: every key with its default, every command, link, path and computed number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import selftaught
from selftaught import api, cli, ledger, power, settle
from selftaught.config import Member, Recipe, read_recipe
from selftaught.load import make, member_class, members

ROOT = Path(__file__).parents[1]
RECIPES = "docs/RECIPES.md"
FAMILIES = {"method": "methods", "tasks": "tasks", "engine": "engines"}  # section of a recipe -> family
SHARED = ("prompt",)  # sections of a recipe that an engine's options repeat
PAGES = sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SECTIONS = "|".join(Recipe.model_fields)
KEY = re.compile(rf"(?<![\w./])(?:{SECTIONS})(?:\.(?!py\b|md\b|yaml\b|jsonl\b|parquet\b)[a-z_]+(?:\[\])?)+")

Rows = dict[str, str]  # key -> default, as a page or the code says


# ---------------------------------------------------------------- what the code has


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def rows_of(model: type[BaseModel], prefix: str) -> Rows:
    """Every key below ``prefix``: sections become dotted keys, items of a list of sections ``key[].field``."""
    found: Rows = {}
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = list(models_in(field.annotation))
        if inner and isinstance(field.get_default(call_default_factory=True), BaseModel):
            found |= {key: f"see {name}"} if prefix and name in SHARED else rows_of(inner[0], f"{key}.")
        else:
            found[key] = default_of(field)
            for item in inner:
                found |= {} if issubclass(item, Member) else rows_of(item, f"{key}[].")
    return found


def default_of(field: FieldInfo) -> str:
    return "required" if field.is_required() else written(field.get_default(call_default_factory=True))


def written(value: Any) -> str:
    """A default as a recipe would have it."""
    if isinstance(value, str):
        return json.dumps(value) if "\n" in value else value
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


@lru_cache
def code() -> dict[str, Rows]:
    """Heading of docs/RECIPES.md -> the keys that belong under it."""
    top: Rows = {}
    found: dict[str, Rows] = {"The recipe": top}
    for name, field in Recipe.model_fields.items():
        [*models] = models_in(field.annotation)
        if name in FAMILIES:
            top[name] = "required" if field.is_required() else field.default.name
        elif models:
            found[name] = rows_of(models[0], f"{name}.")
        else:
            top[name] = default_of(field)
    for section, family in FAMILIES.items():
        for member in members(family):
            found[f"{section}: {member}"] = rows_of(member_class(family, member).Options, f"{section}.")
    for member in members("audits"):
        found[f"audits: {member}"] = rows_of(member_class("audits", member).Options, f"audits.{member}.")
    del found["engine: endpoint"], found["engine: text_file"]  # which stand in a role, and are no student's engine
    found["An endpoint"] = rows_of(member_class("engines", "endpoint").Options, "roles.source.")
    return found


def known_keys() -> set[str]:
    return {key for rows in code().values() for key in rows} | sections()


def sections() -> set[str]:
    """Keys that hold other keys."""
    dotted = {key.replace("[]", "").rpartition(".")[0] for rows in code().values() for key in rows}
    return {"method.name", "tasks.name", "engine.name"} | {key for key in dotted if key}


# ---------------------------------------------------------------- what the pages say


@lru_cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@lru_cache
def tables(name: str) -> dict[str, list[list[str]]]:
    """Heading -> the rows of the tables under it, cells without backticks."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page(name).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif line.startswith("|") and not set(line) <= set("|-: "):
            cells = [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]
            found.setdefault(heading, []).append(cells)
    return found


def said(heading: str) -> Rows:
    return {row[0]: row[1] for row in tables(RECIPES).get(heading, []) if row[0] != "key"}


def code_in(name: str) -> list[str]:
    """Everything set as code in a page: indented and fenced lines, and spans."""
    text = page(name)
    fenced = [line for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    return [*fenced, *indented, *re.findall(r"`([^`\n]+)`", rest)]


def all_code() -> list[tuple[str, str]]:
    return [(name, text) for name in PAGES for text in code_in(name)]


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("heading", sorted(code()))
def test_every_key_is_there_with_its_default(heading: str) -> None:
    assert said(heading) == code()[heading], f"{RECIPES}, under {heading!r}"


def test_every_key_has_a_meaning() -> None:
    empty = [row[0] for heading in code() for row in tables(RECIPES)[heading] if len(row) < 3 or not row[2]]
    assert not empty


def test_no_page_names_a_key_that_does_not_exist() -> None:
    named = {(name, key) for name, text in all_code() for key in KEY.findall(text)}
    wrong = {(name, key) for name, key in named if not {key, f"{key}[]"} & known_keys()}
    assert len(named) > 50 and not wrong


def test_the_automatic_values_are_those_of_the_code() -> None:
    rows = tables(RECIPES)["What auto becomes"][1:]
    limits = [f"below {limit:,.0f}" if limit < float("inf") else "any" for limit, _ in settle.AUTO]
    assert rows == [[limit, kind] for limit, (_, kind) in zip(limits, settle.AUTO, strict=True)]
    assert f"`train.lr` becomes {settle.AUTO_LR:g} for either" in page(RECIPES)


def test_what_a_holdout_can_prove_is_computed() -> None:
    config = Recipe.model_fields["gate"].default
    for n, dev, vault in tables(RECIPES)["What a holdout can prove"][1:]:
        gains = [power.smallest_gain(int(n), alpha) for alpha in (config.alpha, config.alpha / config.looks)]
        assert [f"{100 * (gain or 0):.1f}" for gain in gains] == [dev, vault], f"{n} questions"
    assert f"under {power.items_needed(config.min_gain, config.alpha)} questions" in page(RECIPES)
    assert f"under {power.guard_items(0.03, config.alpha)} at the defaults" in page(RECIPES)


def test_every_outcome_has_its_exit_code() -> None:
    rows = tables(RECIPES)["Outcomes and exit codes"]
    pairs = {
        outcome.strip(): int(number)
        for outcomes, codes, *_ in rows
        if re.fullmatch(r"[\d, ]+", codes)
        for outcome, number in zip(outcomes.split(","), (codes.split(",") * 9), strict=False)
    }
    assert pairs == ledger.EXIT_CODES


# ---------------------------------------------------------------- commands


def commands() -> set[str]:
    return {str(c.name or (c.callback and c.callback.__name__)) for c in cli.app.registered_commands}


def test_every_command_in_a_page_exists() -> None:
    typed = {
        (name, found) for name, text in all_code() for found in re.findall(r"(?<![\w./-])selftaught ([a-z]+)", text)
    }
    assert typed and not [(name, word) for name, word in typed if word not in commands()]


def test_the_readme_lists_every_command() -> None:
    listed = [row[0].split()[1] for row in tables("README.md")["Commands"][1:]]
    assert sorted(listed) == sorted(commands())


def test_every_option_and_override_in_a_command_exists() -> None:
    source = "".join((ROOT / "src" / "selftaught" / f"{n}.py").read_text("utf-8") for n in ("cli", "terminal"))
    lines = [text.partition(" #")[0] for _, text in all_code() if text.startswith("selftaught ")]
    options = {word for line in lines for word in re.findall(r"--[a-z-]+", line)} - {"--help"}
    overrides = {word for line in lines for word in re.findall(r"(?<= )([a-z_.]+)=", line)}
    assert not {o for o in options if f'"{o}"' not in source and f"{o[2:]}: Annotated" not in source}
    assert overrides and not overrides - known_keys()


def test_every_make_target_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", page("Makefile"), re.M))
    named = {(name, t) for name, text in all_code() for t in re.findall(r"^make ([a-z-]+)", text)}
    assert named and not [(name, target) for name, target in named if target not in targets]


def test_the_python_in_a_page_uses_what_there_is() -> None:
    used = {(name, word) for name, text in all_code() for word in re.findall(r"selftaught\.([a-z_]+)\(", text)}
    assert used and not [(name, word) for name, word in used if word not in selftaught.__all__]


# ---------------------------------------------------------------- links and files


def anchors(name: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page(name), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", page(name))
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(str(target.resolve().relative_to(ROOT))), f"{name} links to {link}"


def test_the_layout_in_the_readme_exists() -> None:
    block = re.findall(r"^```text\n(.*?)^```", page("README.md"), re.M | re.S)[0]
    folder, seen = ROOT, 0
    for line in block.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        at = folder if line.startswith(" ") else ROOT
        assert all((at / name).exists() for name in names), line
        folder, seen = (at if line.startswith(" ") else ROOT / names[0]), seen + len(names)
    assert seen > 20


def test_the_readme_places_every_module() -> None:
    modules = {p.name for p in (ROOT / "src" / "selftaught").glob("*.py") if not p.name.startswith("_")}
    assert not {name for name in modules if name not in page("README.md")}


# ---------------------------------------------------------------- bundled recipes


def test_bundled_recipes_pass_every_check() -> None:
    for info in api.recipes():
        recipe = read_recipe(info.path)
        assert make("methods", recipe.method) and make("tasks", recipe.tasks) and info.about, info.name


def test_the_page_of_a_method_quotes_its_bundled_recipe() -> None:
    [info] = [r for r in api.recipes() if r.name == "self_consistency"]
    method = yaml.safe_load(info.path.read_text(encoding="utf-8"))["method"]
    text = page("docs/self_consistency.md")
    assert f"the bundled recipe takes {method['samples']} at {method['temperature']}" in text
    assert f"{method['min_share']} in the bundled recipe" in text and method["formats"] == ["direct"]


# ---------------------------------------------------------------- tests that a page names


def test_every_test_that_a_page_names_is_there() -> None:
    named = [(path, test) for page_ in PAGES for path, test in re.findall(r"(tests/\w+\.py)::(\w+)", page(page_))]
    assert len(named) > 15
    assert not [f"{path}::{test}" for path, test in named if f"def {test}(" not in (ROOT / path).read_text()]
