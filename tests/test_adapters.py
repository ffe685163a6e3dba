"""Adapters: trained on where they stand, opened by their folder, refused with what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from selftaught import ledger, loop
from selftaught.config import parse_recipe
from selftaught.engines import _folders
from selftaught.engines.base import Request, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import ModelError
from selftaught.export import export
from selftaught.settle import settle
from selftaught.types import Checkpoint, Example, Sampling

PROMPT = (1, 5, 6)
LESSONS = ((70, 71, 72, 2), (80, 81, 82, 2))  # what the first job teaches, and the second


def engine() -> TorchEngine:
    return TorchEngine(TorchEngine.Options(processes=1, threads=1, autocast=False, dtype="float32"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("base"))


def job(parent: Checkpoint, lesson: tuple[int, ...], **changes: object) -> TuneJob:
    examples = [Example((1, *range(5, 6 + i)), lesson, "text") for i in range(4)]
    plan = TuneJob(parent, examples, [[0, 1, 2, 3]] * 40, "lora", 1e-2, 2, 0.1, 1.0, 0.0, 4, 8, 7)
    return replace(plan, **changes)  # type: ignore[arg-type]


def trained(parent: Checkpoint, lesson: tuple[int, ...], out: Path, **changes: object) -> Checkpoint:
    out.mkdir()
    e = engine()
    e.tune(job(parent, lesson, **changes), out)
    return e.open(str(out))


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """An adapter, and the one that a second job made of it."""
    folder = tmp_path_factory.mktemp("adapters")
    first = trained(engine().open(str(base)), LESSONS[0], folder / "first")
    return first, trained(first, LESSONS[1], folder / "second", lora_rank=8, lora_alpha=64)


def said(checkpoint: Checkpoint, prompt: tuple[int, ...] = PROMPT) -> tuple[int, ...]:
    [(_, [found])] = engine().generate([Request(checkpoint, prompt, Sampling(max_tokens=8), (0,))])
    return found.ids


# ---------------------------------------------------------------- trained on


def test_a_second_job_goes_on_with_the_first_ones_adapter(base: Path, two: tuple[Checkpoint, Checkpoint]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first, second = two
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(second.adapter)).eval()
    for prompt in (PROMPT, (1, 9), (1, 40, 41, 42)):
        ids = plain.generate(input_ids=torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
        assert tuple(ids.tolist()) == said(second, prompt), "one adapter on the base is all there is"
    sequence = (*PROMPT, *LESSONS[1])
    logits = plain(torch.tensor([sequence])).logits[0, :-1]
    scores = torch.log_softmax(logits, -1).gather(1, torch.tensor(sequence)[1:, None])[:, 0]
    assert np.allclose(engine().score(second, [sequence])[0], scores.tolist(), atol=1e-4)
    assert said(first)[:3] == LESSONS[0][:3] and said(second)[:3] == LESSONS[1][:3]
    assert first.digest != second.digest and first.model == second.model


def test_it_begins_where_the_first_ended(base: Path, two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    afresh, on = (engine().tune(job(c, LESSONS[0]), folder(tmp_path / n))
                  for n, c in (("a", engine().open(str(base))), ("b", two[0])))  # fmt: skip
    assert on.losses[0] < 0.5 * afresh.losses[0]


def test_the_adapters_own_rank_and_alpha_stand(two: tuple[Checkpoint, Checkpoint]) -> None:
    configs = [json.loads((Path(str(c.adapter)) / "adapter_config.json").read_text()) for c in two]
    assert [(c["r"], c["lora_alpha"]) for c in configs] == [(4, 8), (4, 8)]


def test_a_full_fine_tune_of_an_adapter_merges_it_first(two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    whole = trained(two[0], LESSONS[1], tmp_path / "full", kind="full", batches=[[0]], lr=1e-9, warmup_steps=0)
    assert whole.adapter is None and said(whole) == said(two[0]), "nothing to speak of was learnt, and nothing lost"


def test_the_second_job_gives_the_same_bytes_again(two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    again = trained(two[0], LESSONS[1], tmp_path / "again", lora_rank=8, lora_alpha=64)
    assert again.digest == two[1].digest


def folder(path: Path) -> Path:
    path.mkdir()
    return path


# ---------------------------------------------------------------- opened


def test_an_opened_adapter_is_named_by_its_bytes_and_its_bases(
    base: Path, two: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(str(two[0].adapter), tmp_path / "adapter"))
    (copy / "README.md").write_text("a card")
    e = engine()
    found = e.open(str(copy))
    assert (found.digest, found.model, found.adapter) == (two[0].digest, str(base), str(copy))
    assert e.tokens(found).digest == e.tokens(e.open(str(base))).digest
    assert e.describe(found)["parameters"] == e.describe(e.open(str(base)))["parameters"]
    other = tiny.checkpoint(tmp_path / "other", seed=1)
    edited = copy / "adapter_config.json"
    edited.write_text(edited.read_text().replace(str(base), str(other)))
    assert e.open(str(copy)).digest != found.digest


def test_a_recipe_may_name_an_adapter(two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    """Two runs, the second of the first one's exported adapter: what is exported again is one adapter on the base."""
    first = tiny.run(tmp_path / "one")
    loop.run(first)
    out = export(ledger.read_run(first), tmp_path / "exported")
    recipe = parse_recipe(tiny.RUN, "two", (f"model={out}", f"tasks.path={first.parent / 'questions.jsonl'}"))
    assert settle(recipe, engine())[0].model == str(out)
    loop.prepare(recipe, tmp_path / "two")
    loop.run(tmp_path / "two")
    record = ledger.read_run(tmp_path / "two")
    config = json.loads((tmp_path / "two/round-000/candidate/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(first.parent / "model")
    assert record.rounds[0].parent == engine().open(str(out)).digest != record.rounds[0].candidate
    assert len(loop.ask(tmp_path / "two", "1+1")) == 2


def test_a_base_that_any_machine_finds_is_named_so(tmp_path: Path) -> None:
    assert _folders.portable_name(_folders.bundled_root() / "sums") == ("bundled:sums", None)
    cached = tmp_path / "hub" / "models--org--small-model" / "snapshots" / "0a1b"
    assert _folders.portable_name(cached) == ("org/small-model", "0a1b")
    assert _folders.portable_name(tmp_path / "mine") == (str(tmp_path / "mine"), None)
    e = engine()
    sums = trained(e.open("bundled:sums"), (70, 71, 2), tmp_path / "adapter", batches=[[0]])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "bundled:sums"
    assert sums.model == e.open("bundled:sums").model
    assert not any(str(tmp_path) in p.read_text("latin-1") for p in (tmp_path / "adapter").iterdir())


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"base_model_name_or_path": None}, "does not name its base model"),
        (
            {"base_model_name_or_path": "./moved"},
            r"needs its base model './moved'.*does not exist",
        ),
        ({"base_model_name_or_path": "bundled:summs"}, r"needs its base model 'bundled:summs'.*no bundled model"),
        ({"peft_type": "IA3"}, "is of the type 'IA3'"),
        ({"megatron_config": {}, "megatron_core": "evil"}, None),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "names a Python module to import"),
    ],
)
def test_what_cannot_be_opened_says_what_is_missing(
    two: tuple[Checkpoint, Checkpoint], tmp_path: Path, edit: dict[str, object], says: str | None
) -> None:
    copy = Path(shutil.copytree(str(two[0].adapter), tmp_path / "adapter"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **edit}))
    if says is None:
        assert engine().open(str(copy)).adapter == str(copy)
        return
    with pytest.raises(ModelError, match=says):
        engine().open(str(copy))


def test_an_adapter_of_another_model_is_refused(two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    wrong = replace(two[0], model=str(tiny.checkpoint(tmp_path / "neox", "gpt_neox")))
    with pytest.raises(ModelError, match="does not fit its base model"):
        engine().describe(wrong)


def test_a_folder_with_a_model_and_an_adapter_is_refused(
    base: Path, two: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    both = Path(shutil.copytree(str(two[0].adapter), tmp_path / "both"))
    shutil.copytree(base, both, dirs_exist_ok=True)
    with pytest.raises(ModelError, match=r"holds a model \(model.safetensors\) and an adapter"):
        engine().open(str(both))
