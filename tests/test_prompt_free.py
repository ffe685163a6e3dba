"""Prompt-free self-training: what a model is fed, which of its texts are learned, and that every token is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import small
import tiny
from selftaught import integrity, loop
from selftaught.bench import RunBench
from selftaught.engines.base import Engine
from selftaught.engines.scripted import BOS, EOS, ByteTokens, Scripted
from selftaught.errors import ModelError, RecipeError
from selftaught.ledger import RunRecord, read_run
from selftaught.methods.prompt_free import PromptFree
from selftaught.roles import open_roles
from selftaught.rows import read_rows
from selftaught.store import Store
from selftaught.train import packed
from selftaught.types import Checkpoint, Example, Rollout, Sampling, Task
from selftaught.view import Silent

RECIPE = "method={name: prompt_free, samples: 40, max_tokens: 60, min_tokens: 10, temperature: 1.0, answer_tokens: 60}"
ALONE = Task((), checker="", source="prompt_free")


def method(**options: object) -> PromptFree:
    return PromptFree(PromptFree.Options.model_validate({"min_tokens": 0, "tokens": None} | options))


def rollouts(*texts: str, error: str | None = None) -> list[Rollout]:
    ids = [tuple(t.encode()) if error else ByteTokens(99).encode_completion(t) for t in texts]
    return [Rollout(ALONE.id, i, "m", "t", (BOS,), ids[i], (), t, i, None, error) for i, t in enumerate(texts)]


def harvested(folder: Path, some: PromptFree, rows: Sequence[Rollout]) -> tuple[list[Example], dict[str, int]]:
    """Examples, and what was counted."""
    engine = Scripted(Scripted.Options(context=40))
    with Store(folder) as store:
        bench = small.bench(store, small.tasks(small.sums(2)), engine)
        made = list(some.harvest([(ALONE, rows)], bench))
        return made, dict(bench.counts)


def run_of(folder: Path, *overrides: str) -> RunRecord:
    small.prepared(folder, RECIPE, *overrides)
    loop.run(folder)
    return read_run(folder)


# ---------------------------------------------------------------- the budget of tokens


def test_texts_are_learned_in_order_until_the_budget_is_spent_to_the_token(tmp_path: Path) -> None:
    rows = rollouts("a" * 9, "b" * 9, "c" * 9, "d" * 9)  # ten tokens each with their ends
    made, counts = harvested(tmp_path, method(tokens=25), rows)
    assert [e.completion_ids for e in made] == [rows[0].completion_ids, rows[1].completion_ids, tuple(b"ccccc")]
    assert [e.text for e in made] == ["a" * 9, "b" * 9, "c" * 5], "the last is cut, and says so"
    assert [e.parents for e in made] == [(r.id,) for r in rows[:3]]
    assert {(e.prompt_ids, e.source, e.task_id) for e in made} == {((BOS,), "prompt_free", ALONE.id)}
    assert counts == {
        f"samples after the token ids [{BOS}]": 4, "tokens of text": 25, "samples dropped: beyond the token budget": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("tokens", "missing"), [(20, None), (21, 1), (500, 480), (None, None)])
def test_a_budget_larger_than_the_text_says_what_is_missing(
    tmp_path: Path, tokens: int | None, missing: int | None
) -> None:
    made, counts = harvested(tmp_path, method(tokens=tokens), rollouts("a" * 9, "b" * 9))
    assert len(made) == 2 and counts["tokens of text"] == 20
    assert counts.get("tokens missing from the budget") == missing


# ---------------------------------------------------------------- what is dropped


def test_every_sample_that_is_dropped_is_counted_with_its_reason(tmp_path: Path) -> None:
    lost = [replace(r, index=9) for r in rollouts("lost one", error="server gone")]
    rows = [*rollouts("a" * 9, "b" * 8, " \n", "c" * 20), *lost]
    made, counts = harvested(tmp_path, method(min_tokens=10), rows)
    assert [e.text for e in made] == ["a" * 9, "c" * 20]
    dropped = {k: n for k, n in counts.items() if k.startswith("samples dropped")}
    assert dropped == {
        "samples dropped: shorter than 10 tokens": 1, "samples dropped: empty": 1, "samples dropped: server gone": 1,
    }  # fmt: skip


@pytest.mark.parametrize("learned", [True, False])
def test_a_text_that_was_cut_off_is_learned_without_an_end_or_not_at_all(tmp_path: Path, learned: bool) -> None:
    made, counts = harvested(tmp_path, method(cut_off=learned), rollouts("a" * 9, error="truncated"))
    assert [e.completion_ids for e in made] == ([tuple(b"a" * 9)] if learned else [])
    assert counts.get("samples dropped: truncated") == (None if learned else 1)


def test_the_end_that_re_tokenising_gives_a_cut_off_text_is_taken_off_again(tmp_path: Path) -> None:
    """And it is cut to the student's context, here of forty tokens, where its tokens are more."""
    moved = [
        replace(r, completion_ids=(*r.completion_ids, EOS)) for r in rollouts("a" * 9, "b" * 60, error="truncated")
    ]
    made, _ = harvested(tmp_path, method(), moved)
    assert [e.completion_ids for e in made] == [tuple(b"a" * 9), tuple(b"b" * 39)]


# ---------------------------------------------------------------- what a model is fed


class Beginless(Scripted):
    """A model without a begin token: text that nobody asked for begins with its end token."""

    class Options(Scripted.Options):
        pass

    def tokens(self, checkpoint: Checkpoint) -> ByteTokens:
        return EndFirst(self.options.context)


class EndFirst(ByteTokens):
    has_bos = False

    def encode(self, text: str) -> tuple[int, ...]:
        return super().encode(text)[1:] or (EOS,)


def test_a_model_without_a_begin_token_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", RECIPE)
    with pytest.raises(ModelError, match="no begin token, so it cannot write after that alone") as error:
        loop.run(folder, engine=Beginless(Beginless.Options()))
    assert 'method.begin="\\n" (as the reference does)' in error.value.hint
    assert not read_run(folder).units("rollouts"), "before anything is sampled"


@pytest.mark.parametrize(("begin", "fed"), [("Q:", (81, 58)), ("\n", (10,)), ("", (EOS,))])
def test_what_it_is_fed_instead_stands_on_record(tmp_path: Path, begin: str, fed: tuple[int, ...]) -> None:
    folder = small.prepared(tmp_path / "run", RECIPE, f"method.begin={json.dumps(begin)}", "train.replay=0")
    done = loop.run(folder, engine=Beginless(Beginless.Options()))
    assert done.counts[f"samples after the token ids {[*fed]}"] == 40
    kept = small.kept(read_run(folder))
    assert kept and {e.prompt_ids for e in kept} == {fed}


# ---------------------------------------------------------------- a whole run


def test_a_whole_run_learns_what_the_model_wrote_alone(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "method.tokens=600", "train.pack=200")
    assert record.final is not None
    counts = record.final.counts
    assert counts[f"samples after the token ids [{BOS}]"] == 40 and counts["tokens of text"] == 600
    kept = small.kept(record)
    rows = read_rows(record.path / record.units("rollouts")[0]["place"] / "rows.parquet", Rollout)
    own = [e for e in kept if e.own]
    assert {e.text for e in own} < {r.text for r in rows} | {own[-1].text}
    assert record.final.labels.training is False, "no answer was read"
    assert record.facts("candidate")["steps"] >= 1 and all(c.ok for c in integrity.verify(record.path))
    assert record.outcome in ("rejected", "unproven"), "nothing that it wrote makes it better at sums"


def test_rows_of_packed_text_are_never_longer_than_the_context(tmp_path: Path) -> None:
    given = ("train.pack=5000", "engine.context=300", "train.replay=0", "train.batch_tokens=64", "train.epochs=1")
    record = run_of(tmp_path / "run", *given)
    kept = small.kept(record)
    rows = {most: len(packed(kept, most, record.recipe.seed)) for most in (300, 5000)}
    assert rows[300] > rows[5000] and record.facts("candidate")["steps"] == rows[300], "a row is a step here"


def test_more_text_than_there_can_be_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="min_tokens=61 is more than max_tokens=60"):
        small.prepared(tmp_path / "run", RECIPE, "method.min_tokens=61")


def test_the_defaults_are_the_reference_s() -> None:
    found = PromptFree(PromptFree.Options()).sampling()
    assert found == Sampling(20_000, 1.25, 1.0, 0, 1024, min_tokens=50)
    assert PromptFree(PromptFree.Options()).options.tokens == 5_000_000


# ---------------------------------------------------------------- another model's text


def two_vocabularies(folder: Path) -> tuple[Path, Path]:
    """A student, and a source whose byte tokens stand in reverse."""
    student, source = tiny.checkpoint(folder / "student"), tiny.checkpoint(folder / "source", seed=1)
    kept = json.loads((source / "tokenizer.json").read_text())
    kept["model"]["vocab"] = {t: 263 - i if i > 3 else i for t, i in kept["model"]["vocab"].items()}
    (source / "tokenizer.json").write_text(json.dumps(kept))
    return student, source


def test_another_vocabulary_s_text_is_learned_in_the_student_s_tokens(tmp_path: Path) -> None:
    student, source = two_vocabularies(tmp_path)
    options = "method={name: prompt_free, samples: 12, max_tokens: 20, min_tokens: 15, temperature: 2.0}"
    recipe = small.recipe(f"model={student}", f"roles.source={source}", options,
                          "engine={name: torch_engine, processes: 1, threads: 1}")  # fmt: skip
    engine: Engine = loop.make_engine(recipe)
    some = method(samples=12, max_tokens=20, temperature=2.0)
    with Store(tmp_path / "run") as store:
        roles = open_roles(recipe, engine, store.folder)
        bench = RunBench(store, engine, engine.open(str(student)), small.tasks(small.sums(3)), 5, "round-000", Silent(),
                         lambda: False, roles)  # fmt: skip
        groups = bench.generate(list(some.propose(bench)), some.sampling(), role="source")
        made = list(some.harvest(groups, bench))
    engine.close()
    [(_, rows)] = groups
    assert bench.counts["source: re-tokenised"] == bench.counts["source: samples"] == 12
    assert bench.counts["samples after the token ids [1]"] == 12, "the student's own begin token"
    cut = {r.id for r in rows if r.error == "truncated"}
    assert cut and made and len(made) == sum(bool(r.text.strip()) for r in rows)
    for e in made:
        assert e.completion_ids[-1] != 2 or e.parents[0] not in cut, "what was cut off has no end"
        assert bench.tokens.decode(e.completion_ids) == e.text and e.prompt_ids == (1,)
        assert roles["source"].tokens.decode(e.completion_ids) != e.text
