"""The whole loop on the real engine and real questions, with random weights: they must not be accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

import small
import tiny
from selftaught import ledger, loop
from selftaught.config import read_recipe
from selftaught.errors import Stopped
from selftaught.look import look, write_recipe
from selftaught.rows import read_rows
from selftaught.store import folder_digest
from selftaught.types import Labels, Rollout

SMALL = ("train.epochs=1", "train.replay=0.2", "train.replay_samples=8", "train.replay_max_tokens=8",
         "method.max_tokens=16", "method.samples=4",
         "engine.name=torch_engine", "engine.processes=1", "engine.threads=1")  # fmt: skip
ROLES = ("parent", "candidate")
LMSI = ("method.sample_format=few_shot_cot", "method.exemplars=self",
        "method.formats=[few_shot_cot,few_shot_answer,zero_shot_cot,answer_only]")  # fmt: skip
# long and random enough for some samples to end, with a number in them
LONGER = ("method.max_tokens=64", "method.samples=12", "method.temperature=5", "gate.min_gain=0.25")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"), context=1024)


@pytest.mark.parametrize("options", [(), LONGER], ids=["nothing ends", "some end"])
def test_random_weights_on_gsm8k_are_not_accepted(
    tmp_path: Path, shared_data: Path, llama: Path, options: tuple[str, ...]
) -> None:
    before = folder_digest(llama)
    path = shared_data / "gsm8k" / "test.jsonl"
    overrides = (f"model={llama}", "tasks.name=gsm8k", f"tasks.path={path}", "tasks.limit=24", *SMALL,
                 "budget.holdout_share=0.2", "train.kind=full", "method.min_share=0", *options)  # fmt: skip
    loop.prepare(small.recipe(*overrides), tmp_path / "run")
    done = loop.run(tmp_path / "run")
    counts, reason = done.counts, done.decision.reason
    voted, unvoted = (counts.get(f"questions {what}", 0) for what in ("voted", "without a majority"))
    assert voted + unvoted == 24
    assert counts["made"] == counts["kept"] + counts["rejected"]
    assert done.decision.outcome == ("rejected" if voted else "nothing to train on"), reason
    if voted:
        assert reason == "did not pass: gain on dev" and done.decision.rules[0].before == 0
    else:
        assert "24 questions without a majority" in reason and f"{counts['samples']} samples" in reason
        assert f"{counts['samples failed: truncated']} samples failed: truncated" in reason
    assert done.labels == Labels(gate=voted > 0)
    assert (folder_digest(llama), done.looks) == (before, {}), "the parent is untouched, the vault unopened"


@pytest.mark.parametrize(("kind", "method"), [("full", LMSI), ("lora", ())])
def test_a_file_and_a_checkpoint_of_ones_own_run_through_from_a_written_recipe(
    tmp_path: Path, kind: str, method: tuple[str, ...]
) -> None:
    model = tiny.checkpoint(tmp_path / "neox", "gpt_neox", chat=False, context=1024)
    before = folder_digest(model)
    path = small.write_jsonl(tmp_path / "mine.jsonl", small.sum_rows(40))
    written = write_recipe(look(path), str(model), tmp_path / "mine.yaml")
    settings = (*SMALL, *LONGER, *method, f"train.kind={kind}", "tasks.checker=exact", "method.min_share=0")
    recipe = read_recipe(written, [*settings, "train.lr=0.01"])
    loop.prepare(recipe, tmp_path / "run")
    done = loop.run(tmp_path / "run")
    record = ledger.read_run(tmp_path / "run")
    assert done.decision.outcome in ("rejected", "unproven"), done.decision.reason
    assert record.labels == Labels(gate=True)
    assert folder_digest(model) == before
    assert record.kept is not None and record.kept.name == {"full": "model", "lora": "adapter"}[kind]
    assert done.counts["made"] > done.counts["samples with an answer"] / 2 > 0
    assert record.facts("candidate")["last_loss"] > 0
    rows = [read_rows(record.path / f"round-000/evaluate/{role}-dev/rows.parquet", Rollout) for role in ROLES]
    assert rows[0][0].prompt_ids == rows[1][0].prompt_ids
    assert rows[0][0].logprobs != rows[1][0].logprobs, "the candidate's own weights answered"
    assert len(loop.ask(tmp_path / "run", "What is 1+2?")) == 2


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_stopped_and_resumed_it_is_the_same_bit_for_bit(tmp_path: Path, llama: Path, kind: str) -> None:
    path = small.write_jsonl(tmp_path / "mine.jsonl", small.sum_rows(30))
    overrides = (f"model={llama}", "tasks.name=jsonl", f"tasks.path={path}", *SMALL, *LONGER, "method.min_share=0",
                 f"train.kind={kind}", "tasks.checker=exact", "train.batch_tokens=256")  # fmt: skip
    folders = [small.prepared(tmp_path / name / "run", *overrides) for name in ("whole", "stopped")]
    loop.run(folders[0])
    for calls in (30, 140, 3):
        with pytest.raises(Stopped):
            loop.run(folders[1], stop=small.after(calls))
    loop.run(folders[1])
    assert small.bytes_of(folders[0]) == small.bytes_of(folders[1]), "the trained weights included"
    assert ledger.read_run(folders[0]).kept is not None
