"""The bundled model is an ordinary checkpoint of the promised size that does what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selftaught.engines._folders import bundled_root
from selftaught.engines.torch_engine import TorchEngine
from selftaught.rollout import rollout
from selftaught.tasks._checkers import checker
from selftaught.tasks.base import TaskSet
from selftaught.tasks.world_sums import WorldSums
from selftaught.types import Rollout, Sampling, Task

FOLDER = bundled_root() / "sums"


@pytest.fixture(scope="module")
def world() -> TaskSet:
    return WorldSums(WorldSums.Options(train=1, dev=60, vault=1, guard=60, steps=[1, 2])).load(77)


def answer(world: TaskSet, tasks: tuple[Task, ...], sampling: Sampling) -> list[Rollout]:
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    model = engine.open("bundled:sums")
    return rollout(engine, model, engine.tokens(model), tasks, sampling, world.checkers, run_seed=0)


def share_right(world: TaskSet, tasks: tuple[Task, ...]) -> float:
    rows = answer(world, tasks, Sampling(max_tokens=96))
    return sum(world.check(t, r.text)[1] for t, r in zip(tasks, rows, strict=True)) / len(tasks)


def test_it_adds_and_sorts(world: TaskSet) -> None:
    assert share_right(world, world.dev) > 0.8
    assert share_right(world, world.guards["sort"]) > 0.9


def test_it_has_two_habits_with_the_longest_sums() -> None:
    """Its card says so: it mostly guesses when greedy, and works half of its samples out, which are mostly right."""
    long = WorldSums(WorldSums.Options(train=1, dev=60, vault=1, guard=1, steps=[5])).load(78)
    gold = {t.id: t.answer for t in long.dev}
    greedy = answer(long, long.dev, Sampling(max_tokens=96))
    drawn = answer(long, long.dev, Sampling(n=8, temperature=0.8, max_tokens=96))
    guessed = [r.answer == gold[r.task_id] for r in drawn if r.text.startswith("####")]
    worked = [r.answer == gold[r.task_id] for r in drawn if not r.text.startswith("####")]
    assert sum(r.text.startswith("####") for r in greedy) > 0.8 * len(greedy)
    assert 0.3 < len(worked) / len(drawn) < 0.7
    assert sum(guessed) < 0.3 * len(guessed) and sum(worked) > 0.75 * len(worked)


def test_it_is_a_standard_folder_of_one_to_four_megabytes() -> None:
    size = sum(p.stat().st_size for p in FOLDER.iterdir())
    assert 1e6 < size < 4.2e6
    names = {p.name for p in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= names
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "llama" and config["max_position_embeddings"] >= 1024


def test_any_loader_reads_it() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "17+25"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = prompt["input_ids"] if hasattr(prompt, "keys") else prompt
    text = tokenizer.decode(model.generate(ids, max_new_tokens=20, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith("Q: 17+25\nA: 17+25=") or text.startswith("Q: 17+25\nA: 25+17=")
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    ours = engine.open("bundled:sums")
    task = Task(({"role": "user", "content": "17+25"},), checker="number")
    checkers = {"number": checker("number")}
    [row] = rollout(engine, ours, engine.tokens(ours), [task], Sampling(max_tokens=20), checkers, run_seed=0)
    assert text == "Q: 17+25\nA: " + row.text, "transformers and our engine read the same model"


def test_its_card_names_seed_and_command() -> None:
    card = (FOLDER / "README.md").read_text()
    assert "python training/sums.py" in card and "seed 0" in card and "version 2" in card


def test_nothing_in_the_code_knows_it_is_special() -> None:
    source = Path(__file__).parent.parent / "src" / "selftaught"
    naming = [p.name for p in source.rglob("*.py") if "bundled:sums" in p.read_text()]
    assert naming == ["config.py"], "the default of a recipe, and nothing else"
