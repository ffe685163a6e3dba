from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selftaught.config import read_recipe
from selftaught.errors import DataError, RecipeError
from selftaught.load import make
from selftaught.look import look, write_recipe


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "my questions.jsonl"
    rows: list[dict[str, object]] = [{"question": f"What is {n}+1?", "answer": n + 1} for n in range(900)]
    rows += [{"question": f"What is {n}+2?"} for n in range(300)] + rows[:4]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_what_a_file_is_and_what_it_can_prove(questions: Path) -> None:
    found = look(questions)
    assert (found.format, found.rows, found.labelled, found.duplicates) == ("JSON lines", 1204, 904, 4)
    assert found.shapes == {"question + answer": 904, "question": 300}
    assert found.checker == "number"
    assert found.sizes == {"train": 300, "dev": 300, "vault": 600}
    assert (found.example.question, found.example.answer) == ("What is 0+1?", "1")
    assert found.dev_gain is not None and found.vault_gain is not None
    assert 0.02 < found.vault_gain < found.dev_gain < 0.15
    assert found.proof == (
        f"Can be shown with 80 % power: on dev a gain of {100 * found.dev_gain:.1f} points or more, "
        f"on the vault a gain of {100 * found.vault_gain:.1f} points or more."
    )
    assert "4 duplicate questions dropped" in found.notes


def test_the_recipe_loads_and_reads_the_file_as_it_was_shown(questions: Path, tmp_path: Path) -> None:
    found = look(questions)
    out = write_recipe(found, "Qwen/Qwen3-0.6B", tmp_path / "My Recipe.yaml")
    recipe = read_recipe(out, ["method.samples=8"])
    assert (recipe.name, recipe.model, recipe.train.kind) == ("my-recipe", "Qwen/Qwen3-0.6B", "auto")
    assert recipe.method.name == "self_consistency"
    assert recipe.method.options == {
        "samples": 8, "temperature": 0.7, "max_tokens": 256, "min_share": 0.5, "sample_format": "zero_shot_cot",
        "formats": ["zero_shot_cot", "answer_only"],
    }  # fmt: skip
    tasks = make("tasks", recipe.tasks).load(recipe.seed)
    assert {"train": len(tasks.train), "dev": len(tasks.dev), "vault": len(tasks.vault)} == found.sizes
    assert found.proof in out.read_text()


def test_a_recipe_is_not_overwritten_unless_forced(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    out.write_text("mine")
    found = look(questions)
    with pytest.raises(RecipeError, match=r"r\.yaml is there already") as error:
        write_recipe(found, None, out)
    assert "--force" in error.value.hint and out.read_text() == "mine"
    write_recipe(found, None, out, force=True)
    assert read_recipe(out).model == "bundled:sums" and "put your own here" in out.read_text()


@pytest.mark.parametrize(
    "name",
    [
        "a: b #c.jsonl",
        'q"uote.jsonl',
        "line\nbreak.jsonl",
        "{x}.jsonl",
        "no",
        "ünï.jsonl",
        "😀\u2028.jsonl",
        "tab\t.jsonl",
        "x" * 200,
    ],
)
def test_any_file_name_survives_the_recipe(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"prompt": "a"}\n')
    out = write_recipe(look(tmp_path / name), None, tmp_path / "r.yaml")
    assert read_recipe(out).tasks.options["path"] == str(tmp_path / name)


def test_a_bare_word_of_yaml_is_still_a_path(questions: Path, tmp_path: Path) -> None:
    found = look(questions)
    for name in ("no", "null", "1e5", "true", "~"):
        out = write_recipe(replace(found, path=Path(name)), None, tmp_path / "r.yaml", force=True)
        assert read_recipe(out).tasks.options["path"] == name


def test_without_answers_nothing_can_be_proved(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    found = look(tmp_path / "q.jsonl")
    assert found.proof == "No question has an answer, so nothing can be proved: a run ends `unproven`."
    assert (found.dev_gain, found.vault_gain, found.sizes["train"]) == (None, None, 2)


def test_long_answers_are_warned_about(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Tell {n}", "output": "once upon a time there was a cat who sat on a mat " * 2}
        for n in range(9)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = look(tmp_path / "q.jsonl")
    assert found.checker == "exact"
    assert any("compared word for word they will rarely agree" in note for note in found.notes)


def test_a_bad_file_is_refused_as_a_run_would(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        look(tmp_path / "q.jsonl")
