"""A recipe is refused with a sentence a person can act on, or read exactly as it was meant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import papers
from selftaught import loop
from selftaught.config import Recipe, apply_overrides, parse_recipe, read_recipe, to_yaml
from selftaught.errors import RecipeError
from selftaught.strict_yaml import read_yaml

ROOT = Path(__file__).parents[1]
PLAIN = """
method: {name: self_consistency, samples: 8}
tasks: {name: world_sums, train: 100}
"""


def parse(*overrides: str, text: str = PLAIN) -> Recipe:
    return parse_recipe(text, "recipe.yaml", overrides)


def complaint(*overrides: str, text: str = PLAIN) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(*overrides, text=text)
    return str(caught.value)


# ---------------------------------------------------------------- unknown, missing, wrong


def test_an_unknown_key_is_named_with_a_guess() -> None:
    assert "recipe.yaml: unknown key 'modle'; did you mean 'model'?" in complaint("modle=x")


def test_an_unknown_nested_key_is_guessed_from_its_own_section() -> None:
    assert "unknown key 'train.epoch'; did you mean 'epochs'?" in complaint("train.epoch=3")


def test_an_unknown_key_in_a_list_is_guessed_from_what_the_list_holds() -> None:
    said = complaint(text=PLAIN + "gate: {guards: [{suite: sort, margn: 0.1}]}")
    assert "unknown key 'gate.guards.0.margn'; did you mean 'margin'?" in said


def test_a_key_like_nothing_known_gets_the_list() -> None:
    assert "unknown key 'train.zzzz'; known: batch_tokens, checkpoints, clip, epochs" in complaint("train.zzzz=3")


def test_every_wrong_key_is_named_at_once() -> None:
    said = complaint("train.epoch=3", "gate.alfa=0.1")
    assert "train.epoch" in said and "gate.alfa" in said


def test_a_missing_section_is_named_without_the_whole_recipe() -> None:
    said = complaint(text="tasks: {name: world_sums, train: 100}")
    assert said.startswith("recipe.yaml: 'method' is missing.\n") and "world_sums" not in said


def test_a_section_without_a_name_is_named() -> None:
    assert "'method.name' is missing." in complaint(text="method: {samples: 2}\ntasks: {name: x}")


@pytest.mark.parametrize("seed", ["-1", str(2**31), "1.5", "yes", "x"])
def test_a_seed_out_of_bounds_is_refused(seed: str) -> None:
    assert complaint(f"seed={seed}").startswith("recipe.yaml: seed: Input should be ")


def test_seeds_within_bounds_are_taken() -> None:
    assert [parse(f"seed={seed}").seed for seed in (0, 2**31 - 1)] == [0, 2**31 - 1]


NONSENSE = (
    "train.lr=.nan",
    "train.lr=-1e-4",
    "train.lr=0",
    "train.epochs=.inf",
    "train.clip=0",
    "train.warmup=1.5",
    "gate.alpha=1",
    "gate.looks=0",
    "gate.guards=[{suite: s, margin: 1}]",
    "rounds=0",
    "patience=0",
)


@pytest.mark.parametrize("override", NONSENSE)
def test_a_number_that_makes_no_sense_is_refused_where_it_stands(override: str) -> None:
    assert override.split("=")[0] in complaint(override)


def test_a_name_that_would_leave_the_folder_is_refused() -> None:
    assert "recipe.yaml: name: String should match pattern" in complaint("name=../x")


def test_a_recipe_cannot_be_changed_after_it_is_read() -> None:
    with pytest.raises(Exception, match="frozen"):
        parse().seed = 3


# ---------------------------------------------------------------- YAML


def test_a_key_that_stands_twice_is_refused() -> None:
    assert "The key 'seed' stands twice, line 5." in complaint(text=PLAIN + "seed: 1\nseed: 2")
    assert "The key 'lr' stands twice, line 4." in complaint(text=PLAIN + "train: {lr: 1.0, lr: 2.0}")


def test_an_alias_bomb_is_refused_before_it_is_unpacked() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.perf_counter()
    said = complaint(text="\n".join(lines))
    assert "YAML aliases (*name) are refused, line 2." in said
    assert time.perf_counter() - began < 1


def test_a_tag_that_would_make_an_object_is_refused() -> None:
    assert "could not determine a constructor" in complaint("model=!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    "text", ["{", "a: b: c", "a: !!int x", "a: !!timestamp x", "a: !!bool x", "\x00", "[" * 5000, "a: 1\n---\nb: 2"]
)
def test_what_is_not_yaml_is_said_to_be_so(text: str) -> None:
    assert "recipe.yaml is not valid YAML" in complaint(text=text)


def test_a_template_left_unfilled_is_named_by_line() -> None:
    assert "A key must be a word, line 4." in complaint(text=PLAIN + "seed: {{seed}}")


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b"])
def test_what_is_not_a_mapping_is_not_a_recipe(text: str) -> None:
    assert "recipe.yaml is not a recipe." in complaint(text=text)


@pytest.mark.parametrize(("written", "number"), [("1e-5", 1e-5), ("1E5", 1e5), ("+.5e-3", 5e-4), ("2e-4", 2e-4)])
def test_scientific_notation_is_a_number(written: str, number: float) -> None:
    assert parse(f"train.lr={written}").train.lr == number


def test_only_true_and_false_are_booleans() -> None:
    words = ("no", "yes", "on", "off", "n", "y", "No", "OFF")
    assert read_yaml(f"[{', '.join(words)}]", "x") == list(words), "a column called `no` is a column"
    assert read_yaml("[true, False]", "x") == [True, False]


def test_a_switch_still_understands_no() -> None:
    assert parse("prompt.use_chat_template=no").prompt.use_chat_template is False
    assert parse("prompt.use_chat_template=true").prompt.use_chat_template is True


def test_a_date_is_text() -> None:
    assert parse("name=2026-01-31").name == "2026-01-31"


# ---------------------------------------------------------------- overrides


def options(section: str, *overrides: str, text: str = PLAIN) -> dict[str, Any]:
    member = getattr(parse(*overrides, text=text), section)
    return {"name": member.name, **member.options}


def test_overrides_reach_into_sections_and_make_them() -> None:
    recipe = parse("seed=3", "train.lr=1e-4", "--gate.looks=2", "method.samples=[1, 2]", "budget.minutes=")
    assert (recipe.seed, recipe.train.lr, recipe.gate.looks, recipe.budget.minutes) == (3, 1e-4, 2, None)
    assert recipe.method.options == {"samples": [1, 2]}


def test_an_empty_section_can_be_overridden() -> None:
    assert parse("train.epochs=3", text=PLAIN + "train:\n").train.epochs == 3


@pytest.mark.parametrize("word", ["seed", "=3", "--"])
def test_a_word_that_is_no_override_gets_an_example(word: str) -> None:
    said = complaint(word)
    assert f"{word!r} is not an override." in said and "train.lr=1e-4" in said


def test_an_override_below_a_value_is_refused() -> None:
    assert "seed.x: 'seed' is a value, not a section." in complaint("seed.x=1", text=PLAIN + "seed: 0\n")
    assert "tasks.path: 'tasks' is a value" in complaint("tasks.path=x", text="method: {name: m}\ntasks: words\n")


def test_another_members_name_drops_the_old_members_options() -> None:
    assert options("method", "method.name=star") == {"name": "star"}
    assert options("method", "method.hints=2", "method.name=star") == {"name": "star", "hints": 2}


def test_the_same_members_name_keeps_its_options() -> None:
    assert options("method", "method.name=self_consistency") == {"name": "self_consistency", "samples": 8}


def test_a_path_on_generated_tasks_means_my_file_instead() -> None:
    assert options("tasks", "tasks.path=q.jsonl") == {"name": "jsonl", "path": "q.jsonl"}
    assert options("tasks", "tasks.path=q.jsonl", "tasks.limit=5") == {"name": "jsonl", "path": "q.jsonl", "limit": 5}


def test_a_path_on_the_world_of_plants_means_my_questions_instead() -> None:
    text = "method: {name: m}\ntasks: {name: world_planted, dev: 5}\n"
    assert options("tasks", "tasks.path=q.jsonl", text=text) == {"name": "jsonl", "path": "q.jsonl"}


def test_a_path_on_a_generated_world_of_documents_means_my_documents_instead() -> None:
    people = "method: {name: m}\ntasks: {name: world_people, train: 5}\n"
    assert options("tasks", "tasks.path=papers", text=people) == {"name": "passages", "path": "papers"}


def test_ones_own_documents_are_held_out_as_the_worlds_were_and_have_no_oracle() -> None:
    people = "method: {name: m}\ntasks: {name: world_people, hold: questions}\n"
    assert options("tasks", "tasks.path=p", text=people) == {"name": "passages", "path": "p", "hold": "questions"}
    assert options("tasks", "tasks.path=p", "tasks.hold=documents", text=people)["hold"] == "documents"
    controls = people + "gate: {primary: {protocol: adapt}, controls: [base, oracle]}\n"
    assert parse(text=controls).gate.controls == ("base", "oracle")
    assert parse("tasks.path=p", text=controls).gate.controls == ("base",)
    asked = parse("tasks.path=p", "gate.controls=[oracle]", text=controls)
    assert asked.gate.controls == ("oracle",), "what is typed is not taken back: it is refused, with the reason"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", ["selfedit", "continued_pretraining"])
def test_a_bundled_recipe_can_be_planned_on_ones_own_documents(tmp_path: Path, name: str, kind: str) -> None:
    make = {"file": papers.write, "folder": papers.write_texts}[kind]
    path = make(tmp_path / "documents.json", 40)
    scripted = ("engine.name=scripted", "model=scripted:0.5")
    plan = loop.plan(read_recipe(ROOT / "recipes" / f"{name}.yaml", [f"tasks.path={path}", *scripted]))
    held = {"selfedit": None, "continued_pretraining": "questions"}[name]
    assert (plan.recipe.tasks.name, plan.recipe.tasks.options.get("hold")) == ("passages", held)
    assert "40 documents" in " ".join(plan.notes)


def test_a_path_on_tasks_that_have_one_changes_only_the_path() -> None:
    files = "method: {name: m}\ntasks: {name: gsm8k, path: a, limit: 5}\n"
    assert options("tasks", "tasks.path=b", text=files) == {"name": "gsm8k", "path": "b", "limit": 5}
    for name in ("gsm8k", "jsonl", "passages"):
        waiting = f"method: {{name: m}}\ntasks: {{name: {name}, limit: 5}}\n"
        assert options("tasks", "tasks.path=b", text=waiting) == {"name": name, "limit": 5, "path": "b"}


def test_a_path_with_a_name_goes_to_that_name() -> None:
    assert options("tasks", "tasks.path=d", "tasks.name=gsm8k") == {"name": "gsm8k", "path": "d"}


def test_the_callers_dictionary_is_left_alone() -> None:
    data = {"method": {"name": "m", "k": 1}}
    assert apply_overrides(data, ["method.k=2"]) == {"method": {"name": "m", "k": 2}}
    assert data == {"method": {"name": "m", "k": 1}}


# ---------------------------------------------------------------- files, and there and back


def test_a_recipe_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Cannot read the recipe .*absent.yaml: No such file"):
        read_recipe(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: grün".encode("latin-1"))
    with pytest.raises(RecipeError, match="it is not UTF-8 text"):
        read_recipe(tmp_path / "latin.yaml")


def test_a_resolved_recipe_reads_back_as_itself() -> None:
    tricky = {
        "a": "1e5",
        "b": "no",
        "c": "2026-01-31",
        "d": "null",
        "e": "ünï {x}\nA:",
        "f": "",
        "g": "007",
        "h": " x",
        "i": "0x1f",
        "j": "1:30",
        "k": [1, [2.5e-7]],
        "l": {"m": None},
        "n": "=",
        "o": "<<",
    }
    shared = [1, 2]
    recipe = Recipe.model_validate(
        {"method": {"name": "m", **tricky, "q": shared, "r": shared}, "tasks": {"name": "t"}, "train": {"lr": 1e-5}}
    )
    again = parse_recipe(to_yaml(recipe), "copy")
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_reads_back_as_itself(path: Path) -> None:
    recipe = read_recipe(path)
    assert parse_recipe(to_yaml(recipe), "copy").digest == recipe.digest


def test_the_digest_sees_every_value() -> None:
    digests = {parse(o).digest for o in ("seed=0", "seed=1", "train.lr=1e-4", "method.samples=9", "tasks.train=5")}
    assert len(digests) == 5


def test_defaults_are_the_vetted_ones() -> None:
    gate, train = parse().gate, parse().train
    assert (gate.alpha, gate.looks, gate.min_gain, gate.guards) == (0.05, 3, 0.05, "auto")
    assert (train.kind, train.epochs, train.lora_rank, train.lora_alpha) == ("auto", 2.0, 16, 32)


def test_an_engine_option_needs_no_engine_name() -> None:
    assert parse("engine.threads=1").engine.name == "torch_engine"
    assert parse("engine.threads=1").engine.options == {"threads": 1}
