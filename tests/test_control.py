"""Controls: what a run learns is replaced, to the same number of tokens, and everything else stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import papers
import small
import test_continued_pretraining
import test_selfedit
from selftaught import champions, ledger, loop, promotion, summary
from selftaught.config import parse_recipe, read_recipe
from selftaught.control import SOURCE, filled, size
from selftaught.engines.scripted import BOS
from selftaught.errors import RecipeError, RunError
from selftaught.export import export, export_data
from selftaught.report import write_report
from selftaught.rows import read_rows
from selftaught.store import read_chain
from selftaught.types import Example, Rollout
from test_replay import Beginless, Watching, learned, texts, written

KINDS = ("random", "real", "nothing")
DATA = Path(__file__).parent / "data"


def overrides(kind: str, folder: Path, *more: str) -> tuple[str, ...]:
    real = (f"train.real={written(folder, texts(400))}",) if kind == "real" else ()
    return (f"control={kind}", *real, *more)


def run_of(folder: Path, *more: str, engine: Any = None) -> ledger.RunRecord:
    small.prepared(folder, *more)
    loop.run(folder, engine=engine)
    return ledger.read_run(folder)


def own(record: ledger.RunRecord) -> list[Example]:
    return [e for e in small.kept(record) if e.own]


def rollouts(record: ledger.RunRecord, of: int = 0) -> dict[str, Rollout]:
    units = record.units("rollouts", record.rounds[of])
    return {r.id: r for u in units for r in read_rows(record.path / u["place"] / "rows.parquet", Rollout)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ledger.RunRecord:
    return run_of(tmp_path_factory.mktemp("plain") / "run")


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_tokens_and_steps_as_the_method_takes(tmp_path: Path, kind: str, plain: ledger.RunRecord) -> None:
    record = run_of(tmp_path / "run", *overrides(kind, tmp_path))
    counts, before = record.rounds[0].counts, plain.rounds[0].counts
    assert counts["control replaced examples"] == len(own(plain)), "nothing that was made is rejected here"
    assert counts["control replaced tokens"] == sum(map(size, own(plain)))
    drawn = [e for e in own(record) if e.source == SOURCE]
    assert drawn == own(record) and len(drawn) == counts["kept from rollouts"]
    over = counts["control tokens"] - counts["control replaced tokens"]
    assert 0 <= over < max(map(size, drawn)), "up to the last example"
    steps = [r.facts("candidate")["steps"] for r in (record, plain)]
    assert abs(steps[0] - steps[1]) <= 1 + 0.1 * steps[1]
    made = [k for k in before if k.startswith(("questions", "samples"))]
    assert made and all(counts[k] == before[k] for k in made), "what the method did stays on record"


def test_at_random_are_the_paths_of_one_answer_per_question(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "control=random", "method.min_share=0")
    drawn = {e.id for e in own(run_of(tmp_path / "vote", "method.vote=random", "method.min_share=0"))}
    first = {e.id for e in own(record) if not any(p.startswith("again") for p in e.parents)}
    assert first == drawn, "those of the method's own control"
    by_question: dict[str, set[str | None]] = {}
    for e in own(record):
        by_question.setdefault(e.task_id, set()).add(rollouts(record)[e.parents[0]].answer)
    assert len(by_question) == 40 and {len(answers) for answers in by_question.values()} == {1}


def test_at_random_sees_every_wave(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", "control=random", "method.early_stop=4", "method.min_share=0")
    assert {rollouts(record)[e.parents[0]].index >= 4 for e in own(record)} == {True, False}


def test_real_text_is_learned_alone_and_not_mixed_in_again(tmp_path: Path) -> None:
    engine = Watching()
    record = run_of(tmp_path / "run", *overrides("real", tmp_path), engine=engine)
    [job] = engine.jobs
    assert {e.source for e in learned(job)} == {SOURCE, "replay"}
    found = [e.text for e in own(record)]
    assert set(found) <= set(texts(400)) and len(found) == len(set(found)) < 400, "without replacement"
    assert found != sorted(found, key=texts(400).index), "in an order of its own"
    counts = record.rounds[0].counts
    assert counts["control repeated examples"] == 0 and not [k for k in counts if k.startswith("real")]


def test_real_text_that_is_used_up_is_used_again_and_counted(tmp_path: Path) -> None:
    engine = Watching()
    record = run_of(tmp_path / "run", "control=real", f"train.real={written(tmp_path, texts(7))}", engine=engine)
    counts, drawn = record.rounds[0].counts, own(record)
    assert counts["control repeated examples"] == len(drawn) - 7 > 0
    assert len({e.id for e in drawn}) == len(drawn), "none is taken for another"
    [job] = engine.jobs
    shown = [e.text for e in learned(job) if e.source == SOURCE]
    times = [shown.count(text) for text in texts(7)]
    assert sum(times) == len(drawn) and max(times) - min(times) <= 1


def test_real_text_that_is_held_out_is_rejected(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *overrides("real", tmp_path), f"gate.text={written(tmp_path, texts(400))}",
                    "gate.text_items=100")  # fmt: skip
    kept = {e.text for e in own(record)}
    assert kept and not kept & set(texts(100)) and record.rounds[0].counts["rejected"] > 0


def test_nothing_new_is_the_parents_own_unprompted_text(tmp_path: Path) -> None:
    easy = ("gate.alpha=0.9", "tasks.vault=0")  # a gate that luck gets through
    record = run_of(tmp_path / "run", "control=nothing", "rounds=2", *easy)
    assert len(record.rounds) == 2 and record.rounds[0].decision.outcome in ledger.GOOD
    for done in record.rounds:
        found = rollouts(record, done.index)
        [unit] = record.units("examples", done)
        kept = read_rows(record.path / unit["place"] / "kept.parquet", Example)
        mine, replayed = ([e for e in kept if e.source == s] for s in (SOURCE, "replay"))
        assert {e.prompt_ids for e in mine} == {(BOS,)} == {e.prompt_ids for e in replayed}
        assert {found[e.parents[0]].author for e in mine} == {done.parent}, "of the parent as it is now"
        assert not {e.parents[0] for e in mine} & {e.parents[0] for e in replayed}, "none of what replay draws"
        assert done.counts["control sampled"] >= len(mine) and done.counts["control sampled"] % 20 == 0


def test_a_parent_that_hardly_ends_a_text_is_not_asked_for_ever(tmp_path: Path) -> None:
    engine = small.Counting(small.Counting.Options(truncates=0.97))
    more = ("control=nothing", "method.samples=40", "method.min_share=0", "engine.truncates=0.97", "train.replay=0")
    record = run_of(tmp_path / "run", *more, "train.replay_samples=60", engine=engine)
    counts = record.rounds[0].counts
    assert counts["control sampled"] == 60 and 0 < 60 - counts["control truncated"] < 6
    assert counts["control repeated examples"] > 0 and counts["control tokens"] >= counts["control replaced tokens"]


def test_where_the_method_makes_nothing_nothing_takes_its_place(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", *overrides("real", tmp_path), "engine.answers=false")
    assert record.outcome == "nothing to train on" and "control examples" not in record.rounds[0].counts


def test_a_piece_without_a_token_fills_nothing() -> None:
    empty, full = Example((), (), ""), Example((1,), (2, 3), "x")
    assert list(filled([empty], 9)) == []
    assert [e.text for e in filled([empty, full], 4)] == ["", "x", "", "x"]


def test_edits_at_random_in_place_of_those_that_helped(tmp_path: Path) -> None:
    loop.prepare(test_selfedit.recipe(tmp_path, "control=random", documents=60), tmp_path / "run")
    loop.run(tmp_path / "run")
    record = ledger.read_run(tmp_path / "run")
    _, verdicts = test_selfedit.findings(record)
    chosen = {v.subject for v in verdicts if v.ok}
    shuffled = {e.parents[0] for e in own(record)}
    assert shuffled and {e.source for e in own(record)} == {SOURCE}
    assert shuffled - chosen and shuffled <= {v.subject for v in verdicts}
    assert record.labels.training, "adapters were tried all the same"


# ---------------------------------------------------------------- refused before anything is sampled


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("control=real",), r"the recipe names none\.\n.*Name a file as train\.real"),
        (("control=nothing", "train.replay=1"), r"with train\.replay=1 nothing of that is learned"),
        (("control=null",), "control: Input should be 'none', 'random', 'real' or 'nothing'"),
    ],
)
def test_a_control_that_cannot_be_is_refused(tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    engine = small.Counting()
    with pytest.raises(RecipeError, match=says):
        loop.prepare(small.recipe(*more), tmp_path / "run", engine)
    assert engine.calls == [] and not (tmp_path / "run").exists()


def test_a_method_that_chooses_nothing_has_no_random_control(tmp_path: Path) -> None:
    text = test_continued_pretraining.RECIPE.replace("PATH", str(papers.write(tmp_path / "documents.json", 20)))
    with pytest.raises(RecipeError, match=r"continued_pretraining chooses nothing.*\n.*Take control=real or"):
        loop.plan(parse_recipe(text, "docs", ["control=random"]))
    notes = loop.plan(parse_recipe(text, "docs", ["control=nothing"])).notes
    assert [n for n in notes if n.startswith("control: nothing (the parent's own unprompted text is learned")]


def test_a_model_without_a_begin_token_cannot_write_unprompted() -> None:
    with pytest.raises(RecipeError, match="this one has no token to begin with"):
        loop.plan(small.recipe("control=nothing", "train.replay=0"), Beginless())
    assert loop.plan(small.recipe("control=random", "train.replay=0"), Beginless())


# ---------------------------------------------------------------- on record, and never the champion


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_again_and_again_it_is_the_same(tmp_path: Path, kind: str) -> None:
    more = overrides(kind, tmp_path, "tasks.train=20", "tasks.dev=40", "tasks.vault=40", "tasks.guard=20")
    whole = run_of(tmp_path / "a" / "run", *more)
    folder = small.prepared(tmp_path / "b" / "run", *more)
    small.run_in_pieces(folder, (10, 22, 24, 30, 36, 50, 60, 70, 90, 120))
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


def sums(folder: Path) -> Path:
    """Real text that makes the scripted model better: right sums, of more numbers than any question has."""
    rows = [[3 + i, 5 + i % 7, 11 + i % 5, *range(1, 9)] for i in range(300)]
    lines = [f"Q: {'+'.join(map(str, row))}\nA: #### {sum(row)}" for row in rows]
    return small.write_jsonl(folder / "sums.jsonl", [{"text": line} for line in lines])


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> ledger.RunRecord:
    """A control that is proved."""
    folder = tmp_path_factory.mktemp("better")
    return run_of(folder / "run", "control=real", f"train.real={sums(folder)}")


def test_a_control_is_never_promoted_even_if_it_is_proved(better: ledger.RunRecord) -> None:
    assert better.outcome == "proved"
    with pytest.raises(RunError, match=r"run is a control \(real\): a control is never a champion"):
        promotion.promote(better.path, "ana")
    assert champions.entries(better.path.parent) == []


SAID = "control: real (real text of train.real is learned in place of what the method makes)"


def test_a_control_says_so_wherever_it_is_shown(better: ledger.RunRecord, plain: ledger.RunRecord) -> None:
    assert SAID in loop.plan(better.recipe).notes
    assert any("learned in place of what the method makes" in n for n in loop.plan(better.recipe).notes if "texts" in n)
    root = better.path.parent
    assert summary.headline(better).startswith("run (control: real): proved")
    assert SAID in summary.plain(summary.blocks(better, root))
    assert "control: real" in summary.plain([summary.runs_block([better])])
    assert summary.as_json(better, root)["control"] == "real" and summary.as_json(plain, root)["control"] == "none"
    assert f"<b>{SAID}.</b>" in write_report(better.path).read_text()
    shown = [summary.headline(plain), summary.plain(summary.blocks(plain, root)), write_report(plain.path).read_text()]
    assert not any("control:" in text.replace("control: none", "") for text in shown)


def test_the_cards_of_a_control_say_so(tmp_path: Path, better: ledger.RunRecord, plain: ledger.RunRecord) -> None:
    model, data = (write(better, tmp_path / write.__name__) / "README.md" for write in (export, export_data))
    digest = better.facts("tasks")["real text"]
    for card in (model, data):
        assert f"**{SAID}.** A control is there to be compared with. The text's digest: `{digest}`." in card.read_text()
    assert "stood in `train.real`, in place of what was made by the method" in " ".join(model.read_text().split())
    assert "**It is somebody's**" in data.read_text() and "whoever wrote `train.real`" in data.read_text()
    without = (export(plain, tmp_path / "plain") / "README.md").read_text()
    assert "A control is" not in without and "that this model wrote itself by the method" in without


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("random", "this model wrote itself, chosen at random and not by the method"),
        ("nothing", "the parent wrote unprompted, in place of what was made by the method"),
    ],
)
def test_a_card_of_text_at_random_or_of_nothing_new_names_its_writer(tmp_path: Path, kind: str, says: str) -> None:
    out = export(run_of(tmp_path / "run", *overrides(kind, tmp_path)), tmp_path / "out", anyway=True)
    assert says in " ".join((out / "README.md").read_text().split())


def test_recipes_without_a_control_keep_their_digest_and_their_record(plain: ledger.RunRecord) -> None:
    old = sorted(DATA.glob("format-*/**/recipe.yaml"))
    for path in old:
        began = next(e for e in read_chain(path.parent) if e["kind"] == "tasks")
        assert read_recipe(path).digest == began["facts"]["recipe"], path
    assert len(old) > 2 and small.recipe("control=none").digest == small.recipe().digest
    assert small.recipe("control=random").digest != small.recipe().digest
    assert not [k for k in plain.rounds[0].counts if k.startswith("control")]
