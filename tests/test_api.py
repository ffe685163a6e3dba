"""The functions behind the commands: how a recipe is found, a folder made, a setting written, a fault explained."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import selftaught
from fake_runs import make_run, recipe
from selftaught import api, summary, visible
from selftaught.errors import RecipeError, RunError, Stopped


def test_the_package_offers_the_functions_of_the_commands() -> None:
    assert selftaught.__all__ == sorted(selftaught.__all__)
    assert all(getattr(selftaught, name) is not None for name in selftaught.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        getattr(selftaught, "rnu")  # noqa: B009  (mypy knows that it is not there)


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["self_consistency", "self_consistency.yaml", "recipes/self_consistency.yaml"])
def test_a_bundled_recipe_is_found_by_its_names(name: str) -> None:
    assert api.resolve(name).name == "self_consistency"


def test_the_recipes_of_a_clone_are_the_packages() -> None:
    clone = Path(__file__).parents[1] / "recipes"
    assert {r.path.resolve() for r in api.recipes()} == {p.resolve() for p in clone.rglob("*.yaml")}
    assert all(r.about for r in api.recipes())


def test_python_settings_are_overrides() -> None:
    words = api._dotted({"seed": 3, "train": {"lr": 1e-5, "steps": None}, "tasks": {"path": Path("a b.jsonl")}})
    assert words == ["seed=3", "train.lr=1e-05", "train.steps=null", 'tasks.path="a b.jsonl"']
    found = api.resolve("self_consistency", api._dotted({"seed": 3, "train": {"lr": 1e-5}, "gate": {"guards": []}}))
    assert (found.seed, found.train.lr, found.gate.guards) == (3, 1e-5, [])


def test_a_recipe_object_takes_overrides_too() -> None:
    assert api.resolve(recipe(), ["seed=9"]).seed == 9
    assert api.resolve(recipe()) == recipe()


def test_a_run_is_not_a_recipe(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with pytest.raises(RecipeError, match=r"is a run, not a recipe\.\n  Go on with it: selftaught resume"):
        api.resolve(folder)


# ---------------------------------------------------------------- folders


def test_folders_are_numbered_and_never_shared(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: api._new_folder("x", tmp_path).name, range(20)))
    assert sorted(made) == sorted(f"x-{n}" for n in range(1, 21))


def test_a_place_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot make a run folder"):
        api._new_folder("x", tmp_path / "file")


def test_records_are_read_by_name_path_and_age(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert api.show("fake-1", runs=tmp_path).name == api.show(folder).name == api.show(runs=tmp_path).name == "fake-1"
    assert [r.name for r in api.runs(tmp_path)] == ["fake-1"]
    with pytest.raises(RunError, match="There is no run"):
        api.show(runs=tmp_path / "none")


def test_a_run_from_python_is_the_run_of_the_command(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "name": "py", "engine": {"name": "scripted"}, "model": "scripted:0.6", "method": {"samples": 5},
        "tasks": {"train": 40, "dev": 60, "vault": 60, "guard": 0}, "train": {"replay": 0.0},
    }  # fmt: skip
    record = selftaught.run("self_consistency", "seed=4", runs=tmp_path, **settings)
    assert record.name == "py-1" and record.recipe.seed == 4 and record.outcome in ("proved", "accepted", "unproven")
    again = selftaught.run("self_consistency", "seed=4", runs=tmp_path, **settings)
    assert again.name == "py-2" and [e["unit"] for e in again.chain] == [e["unit"] for e in record.chain]
    assert "1+2=" in selftaught.ask(record, "1+2").after
    assert selftaught.plan("self_consistency", **settings)["sizes"]["dev"] == 60


def test_a_stop_token_ends_a_run_and_resume_goes_on(tmp_path: Path) -> None:
    small = ("engine.name=scripted", "model=scripted:0.6", "tasks.train=40", "tasks.dev=60", "tasks.vault=60")
    asked = iter([False] * 10)
    with pytest.raises(Stopped):
        selftaught.run("self_consistency", *small, runs=tmp_path, stop=lambda: next(asked, True))
    [stopped] = selftaught.runs(tmp_path)
    assert stopped.outcome == "stopped" and not stopped.rounds
    assert selftaught.resume(runs=tmp_path).rounds


# ---------------------------------------------------------------- what leaves a run


def test_an_unforeseen_error_leaves_its_traceback_in_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with pytest.raises(ZeroDivisionError) as caught, api._notes(folder):
        raise ZeroDivisionError
    assert caught.value.__notes__ == [f"The traceback is in {folder / 'error.txt'}",
                                      f"What is finished is kept. Go on with: selftaught resume {folder}"]  # fmt: skip
    assert "ZeroDivisionError" in (folder / "error.txt").read_text()


def test_a_stop_says_how_to_go_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with pytest.raises(Stopped) as caught, api._notes(folder):
        raise Stopped
    assert caught.value.__notes__ == [f"What is finished is kept. Go on with: selftaught resume {folder}"]


def test_a_folder_in_which_nothing_was_begun_is_forgotten(tmp_path: Path) -> None:
    empty, full = api._new_folder("x", tmp_path), make_run(tmp_path)
    api._forget(empty)
    api._forget(full)
    assert not empty.exists() and full.exists()


# ---------------------------------------------------------------- the summary


def test_rich_and_plain_say_the_same(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    record = api.show(make_run(tmp_path))
    plain, rich = StringIO(), StringIO()
    summary.draw_run(record, tmp_path, Console(file=plain))
    summary.draw_run(record, tmp_path, Console(file=rich, force_terminal=True, width=200, no_color=True))
    words = {w for b in summary.blocks(record, tmp_path) for row in b.rows for w in row}
    missing = [
        w
        for w in words
        for text in (plain, rich)
        if w not in " ".join(text.getvalue().split()) and w in plain.getvalue()
    ]
    assert not missing
    assert all(w in plain.getvalue() for w in words)


def test_a_sample_question_is_safe_to_paste(tmp_path: Path) -> None:
    record = api.show(make_run(tmp_path))
    assert summary.next_commands(record, tmp_path)[0] == 'selftaught ask fake-1 "dev 40+1"'


def test_long_texts_are_cut_and_flattened() -> None:
    assert summary.shortened("a\n\n b\tc") == "a / b\tc"
    assert len(summary.shortened("x" * 1000)) == summary.LONGEST
    assert visible.printable("\u202ea\x07\x9b") == "\\u202ea␇\\u009b"
