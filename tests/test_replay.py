"""Real text in every update: it never leaves the pool, passes the filters as all else does, and is on record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import selftaught
import small
from selftaught import integrity, ledger, loop
from selftaught.engines.base import Tuned, TuneJob
from selftaught.engines.scripted import BOS, EOS, ByteTokens, Scripted
from selftaught.errors import DataError, IntegrityError, ModelError, RecipeError, Stopped, Waiting
from selftaught.replay import in_pieces
from selftaught.rows import read_rows
from selftaught.texts import read_texts
from selftaught.types import Example, Labels, Task, Verdict

ROUNDS = ("rounds=2", "model=scripted:0.45", "method.min_share=0", "gate.looks=3")
WORDS = ("amber", "birch", "copper", "delta", "ember", "fjord", "garnet", "hazel", "indigo", "juniper", "kelp")


def texts(count: int) -> list[str]:
    """Texts of twelve words, no two of which are nearly alike."""
    return [" ".join(f"{WORDS[(i + k * k) % len(WORDS)]}{i}" for k in range(12)) for i in range(count)]


def written(folder: Path, found: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "real.txt").write_text("\n\n".join(found) + "\n")
    return folder / "real.txt"


class Watching(Scripted):
    """The scripted engine, which shows what it was taught."""

    class Options(Scripted.Options):
        pass

    def __init__(self, **options: Any) -> None:
        super().__init__(Scripted.Options(**options))
        self.jobs: list[TuneJob] = []

    def tune(self, job: TuneJob, out: Path, **how: Any) -> Tuned:
        self.jobs.append(job)
        return super().tune(job, out, **how)

    def taught(self) -> list[Counter[str]]:
        """Per update, how often each real text stood in its batches."""
        return [Counter(e.text for e in learned(job) if e.source == "real") for job in self.jobs]


def learned(job: TuneJob) -> list[Example]:
    return [job.examples[i] for batch in job.batches for i in batch]


def run_of(folder: Path, *overrides: str, engine: Any = None) -> ledger.RunRecord:
    small.prepared(folder, *overrides)
    loop.run(folder, engine=engine)
    return ledger.read_run(folder)


def judged(record: ledger.RunRecord) -> tuple[list[Example], dict[str, str]]:
    """Real text that was kept, and the reasons why other real text was not, by its words."""
    folder = record.path / record.units("examples")[-1]["place"]
    kept, rejected = (read_rows(folder / f"{name}.parquet", Example) for name in ("kept", "rejected"))
    reasons = {v.subject: f"{v.by}: {v.reason}" for v in read_rows(folder / "verdicts.parquet", Verdict)}
    return [e for e in kept if e.source == "real"], {e.text: reasons[e.id] for e in rejected if e.source == "real"}


# ---------------------------------------------------------------- in every update


@pytest.mark.parametrize("start", ["parent", "base"])
def test_every_update_of_every_round_holds_the_real_texts_again(tmp_path: Path, start: str) -> None:
    engine = Watching(learns=0.3)
    file = written(tmp_path, texts(6))
    record = run_of(tmp_path / "run", *ROUNDS, f"train.start={start}", f"train.real={file}", engine=engine)
    assert len(record.rounds) == 2 and record.rounds[0].decision.outcome in ledger.GOOD
    for job, real in zip(engine.jobs, engine.taught(), strict=True):
        assert set(real) == set(texts(6)) and max(real.values()) - min(real.values()) <= 1, "all of them, and evenly"
        assert real.total() == round(0.1 * len(learned(job))), "a tenth of the whole, if nothing else is said"
    for done in record.rounds:
        assert (done.counts["real texts"], done.counts["real pieces"], done.counts["kept real"]) == (6, 6, 6)
        assert done.counts["kept"] == done.counts["kept from rollouts"] + done.counts["kept replay"] + 6
        assert done.labels == Labels(training=False, selection=False, gate=True), "text is no label"
    assert all(c.ok for c in integrity.verify(record.path)), integrity.verify(record.path)


def test_a_real_text_is_learned_as_unprompted_text_is(tmp_path: Path) -> None:
    record = run_of(tmp_path / "run", f"train.real={written(tmp_path, texts(3))}")
    real, _ = judged(record)
    replayed = [e for e in small.kept(record) if e.source == "replay"]
    assert {e.prompt_ids for e in (*real, *replayed)} == {(BOS,)}
    assert [e.completion_ids for e in real] == [ByteTokens(0).encode_completion(text) for text in texts(3)]
    assert {(e.loss, e.weight, e.parents, e.source) for e in real} == {("nll", 1.0, (), "real")}


def test_real_text_alone_is_no_self_training(tmp_path: Path) -> None:
    file = written(tmp_path, texts(3))
    record = run_of(tmp_path / "run", f"train.real={file}", "curate.max_tokens=80", "tasks.steps=[20]")
    counts = record.rounds[-1].counts
    assert record.outcome == "nothing to train on", record.outcome
    assert counts["kept from rollouts"] == 0 < counts["kept real"]


def test_the_replay_control_learns_replay_alone(tmp_path: Path) -> None:
    engine = Watching()
    file = written(tmp_path, texts(3))
    record = run_of(tmp_path / "run", "train.replay=1", "train.steps=3", f"train.real={file}", engine=engine)
    assert {e.source for job in engine.jobs for e in learned(job)} == {"replay"}
    assert not [name for name in record.rounds[-1].counts if "real" in name]
    assert "; left out, as train.replay is 1" in " ".join(loop.plan(record.recipe).notes)


# ---------------------------------------------------------------- through the filters


def test_real_text_passes_the_filters_as_all_else_does(tmp_path: Path) -> None:
    held = "a wording that is held out as real text of the guard and shares thirteen words with a longer one"
    guard = tmp_path / "guard.jsonl"
    small.write_jsonl(guard, [{"text": held}])
    asked = loop.load_whole(small.recipe()).dev[0].question
    bad = {
        f"Once somebody asked:\n{asked}\nand nobody knew.": "filter:overlap: a line of it is a held-out question",
        f"It began like this, {held}.": "filter:overlap: shares 13 words in a row with a held-out question",
        "ha " * 100: "filter:repetition: ",
        texts(4)[1].upper(): "filter:duplicates: repeats example ",
        f"{' '.join(texts(4)[:3])} and a little more": "filter:duplicates: nearly repeats example ",
        "Ein ganzer Satz auf Deutsch, damit die Sprache eindeutig zu erkennen ist.": "filter:language: ",
    }
    english = "The quick brown fox jumps over the lazy dog while everybody else in the village is fast asleep."
    file = small.write_jsonl(
        tmp_path / "real.jsonl", [{"text": t} for t in (*texts(4), " ".join(texts(4)[:3]), english, *bad)]
    )
    record = run_of(tmp_path / "run", f"train.real={file}", f"gate.text={guard}", "gate.text_items=5",
                    "curate.languages=[en, xh, la]")  # fmt: skip
    kept, reasons = judged(record)
    assert english in {e.text for e in kept}
    for text, reason in bad.items():
        assert reasons[text].startswith(reason), reasons[text]
    counts = record.rounds[-1].counts
    assert counts["real pieces"] == len(kept) + len(reasons) and counts["made"] == counts["kept"] + counts["rejected"]


def test_what_a_model_wrote_does_not_take_the_place_of_a_real_text(tmp_path: Path) -> None:
    replayed = [e for e in small.kept(run_of(tmp_path / "before")) if e.source == "replay"]
    file = small.write_jsonl(tmp_path / "real.jsonl", [{"text": replayed[0].text}])
    record = run_of(tmp_path / "run", f"train.real={file}")
    assert [e.text for e in judged(record)[0]] == [replayed[0].text]
    assert replayed[0].text not in {e.text for e in small.kept(record) if e.source == "replay"}


# ---------------------------------------------------------------- long texts


@pytest.mark.parametrize(("context", "most", "largest"), [(64, 1024, 64), (4096, 50, 50), (40, 41, 40)])
def test_a_long_text_is_cut_into_pieces_that_fit_and_nothing_of_it_is_lost(
    context: int, most: int, largest: int
) -> None:
    long = Task(({"role": "user", "content": " ".join(texts(9))[:500]},), form="document")
    short = Task(({"role": "user", "content": "short"},), form="document")
    pieces = in_pieces([long, short], ByteTokens(context), small.recipe(f"curate.max_tokens={most}"))
    sizes = [len(e.prompt_ids) + len(e.completion_ids) for e in pieces[:-1]]
    assert max(sizes) <= largest and max(sizes) - min(sizes) <= 1, "of like lengths: no scrap at the end"
    assert len(sizes) == -(-501 // (largest - 1)), "as few as can be"
    ids = [i for e in pieces[:-1] for i in e.completion_ids]
    assert tuple(ids) == ByteTokens(0).encode_completion(long.question) and ids.count(EOS) == 1
    assert "".join(e.text for e in pieces[:-1]) == long.question and pieces[-1].text == "short"
    assert {e.prompt_ids for e in pieces} == {(BOS,)} and len({e.id for e in pieces}) == len(pieces)
    assert pieces == in_pieces([long, short], ByteTokens(context), small.recipe(f"curate.max_tokens={most}"))


def test_a_long_text_is_counted_in_pieces_and_its_pieces_are_no_duplicates(tmp_path: Path) -> None:
    sentence = [f"{text}." for text in texts(40)]
    file = written(tmp_path, [" ".join(sentence), texts(41)[40]])
    record = run_of(tmp_path / "run", f"train.real={file}", "curate.max_tokens=200")
    kept, _ = judged(record)
    counts = record.rounds[-1].counts
    assert counts["real texts"] == 2 and counts["real pieces"] == counts["kept real"] == len(kept) > 10
    assert {len(e.completion_ids) <= 199 for e in kept} == {True} and len({e.task_id for e in kept}) == 2


def test_where_not_even_a_token_fits_beside_the_beginning_each_is_rejected_with_its_length(tmp_path: Path) -> None:
    [text] = read_texts(str(written(tmp_path, ["four"])), "train.real")
    pieces = in_pieces([text], ByteTokens(64), small.recipe("curate.max_tokens=1"))
    assert [len(e.prompt_ids + e.completion_ids) for e in pieces] == [2] * 5, "and the filter for length says so"


class Deaf(ByteTokens):
    """Has no token for anything, as a tokenizer whose normalizer strips what it does not know."""

    def encode_completion(self, text: str) -> tuple[int, ...]:
        return ()


def test_a_text_without_a_token_is_counted_and_left_to_the_filters(tmp_path: Path) -> None:
    found = read_texts(str(written(tmp_path, ["four", "five"])), "train.real")
    assert [e.completion_ids for e in in_pieces(found, Deaf(64), small.recipe())] == [(), ()]


class Unopened(ByteTokens):
    """Bytes with neither a begin nor an end token."""

    has_bos = False

    def encode(self, text: str) -> tuple[int, ...]:
        if not text:
            raise ModelError("neither a begin nor an end token", hint="")
        return tuple(text.encode())

    encode_completion = encode


class Beginless(Watching):
    def tokens(self, checkpoint: Any) -> Unopened:
        return Unopened(self.options.context)


def test_for_a_model_with_nothing_to_begin_with_a_text_starts_without_and_the_plan_says_so(tmp_path: Path) -> None:
    recipe = small.recipe("train.replay=0", f"train.real={written(tmp_path, texts(2))}")
    said = "train.real: this model has no token to begin with: texts start without one"
    assert said in loop.plan(recipe, Beginless()).notes and said not in loop.plan(recipe).notes
    loop.prepare(recipe, tmp_path / "run", Beginless())
    loop.run(tmp_path / "run", engine=Beginless())
    real, _ = judged(ledger.read_run(tmp_path / "run"))
    assert [(e.prompt_ids, bytes(e.completion_ids).decode()) for e in real] == [((), text) for text in texts(2)]


# ---------------------------------------------------------------- before a run, and on record


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("train.real_share=0.3",), "real_share is a share of the text in a file, and there is none: set real too"),
        (("train.real=a.txt", "train.replay=0.7", "train.real_share=0.3"), "leave no room for what the method makes"),
        (("train.real=a.txt", "train.real_share=0"), "train.real_share: Input should be greater than 0"),
        (("train.real=a.txt", "train.real_share=1"), "train.real_share: Input should be less than 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        small.recipe(*overrides)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', r"train\.real: .*a\.jsonl, line 2: no text"),
        ("b.txt", "\n\n", r"train\.real: .*b\.txt holds no text"),
        ("c.txt", None, r"train\.real: .*c\.txt cannot be read"),
    ],
)
def test_a_file_that_is_no_text_is_refused_before_anything_is_sampled(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    engine = small.Counting()
    with pytest.raises(DataError, match=says):
        loop.plan(small.recipe(f"train.real={tmp_path / name}"), engine)
    with pytest.raises(DataError, match=says):
        small.prepared(tmp_path / "run", f"train.real={tmp_path / name}")
    assert engine.calls == [] and not (tmp_path / "run").exists()


def test_a_plan_says_how_much_text_there_is(tmp_path: Path) -> None:
    file = written(tmp_path, ["x" * 250, "y" * 48])
    notes = selftaught.plan(small.recipe(f"train.real={file}", "train.real_share=0.25", "curate.max_tokens=101"))[
        "notes"
    ]
    assert "train.real: 2 texts in 4 pieces of 76 tokens on average; 25% of the examples" in notes
    assert not [note for note in loop.plan(small.recipe()).notes if "real" in note]


def test_a_file_that_was_edited_is_refused_on_resume(tmp_path: Path) -> None:
    file = written(tmp_path, texts(3))
    folder = small.prepared(tmp_path / "run", f"train.real={file}")
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(40))
    facts = ledger.read_run(folder).facts("tasks")
    assert len(facts["real text"]) == 64 and "text" not in facts
    written(tmp_path, [*texts(2), "another"])
    with pytest.raises(IntegrityError, match="began with another real text"):
        loop.run(folder)
    written(tmp_path, texts(3))
    assert loop.run(folder).decision.outcome == "proved", "restored, it goes on"


def test_the_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, texts(1))
    monkeypatch.chdir(tmp_path)
    assert loop.plan(small.recipe("train.real=real.txt")).recipe.train.real == str(file.resolve())


@pytest.mark.parametrize("start", ["parent", "base"])
def test_stopped_again_and_again_it_is_the_same(tmp_path: Path, start: str) -> None:
    file = written(tmp_path, texts(4))
    overrides = (*ROUNDS, f"train.start={start}", "tasks.train=20", "engine.learns=0.3", f"train.real={file}")
    whole = run_of(tmp_path / "a" / "run", *overrides)
    folder = small.prepared(tmp_path / "b" / "run", *overrides)
    small.run_in_pieces(folder, (10, 30, 60, 120, 150, 200, 130, 140, 300))
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


KILLED = """
import os, signal, sys
from pathlib import Path
from selftaught import loop

def watch(event, args):
    if event == "os.rename" and str(args[1]).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
loop.run(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("place", ["round-000/examples", "round-001/examples", "round-001/candidate"])
def test_killed_as_a_unit_is_published_it_is_the_same(tmp_path: Path, place: str) -> None:
    file = written(tmp_path, texts(4))
    overrides = (*ROUNDS, "tasks.train=20", "engine.learns=0.3", f"train.real={file}")
    whole = run_of(tmp_path / "a" / "run", *overrides)
    folder = small.prepared(tmp_path / "b" / "run", *overrides)
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, str(folder), place],
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                           capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert found.returncode == -signal.SIGKILL, found.stderr
    assert place not in [e.get("place") for e in ledger.read_run(folder).chain]
    loop.run(folder)
    assert small.bytes_of(folder) == small.bytes_of(whole.path)


def test_people_judge_the_methods_own_examples_alone(tmp_path: Path) -> None:
    file = written(tmp_path, texts(5))
    folder = small.prepared(tmp_path / "run", f"train.real={file}", "review.who=all", "tasks.train=4")
    with pytest.raises(Waiting):
        loop.run(folder)
    asked = {q.subject for q in selftaught.review(folder).questions}
    record = ledger.read_run(folder)
    assert asked == {e.id for e in small.kept(record) if e.own} and len(judged(record)[0]) == 5


def test_text_that_is_held_out_and_to_be_learned_is_told_before_the_run(tmp_path: Path) -> None:
    """The filters keep nothing of it: a run would go on without any real text."""
    file = small.write_jsonl(tmp_path / "real.jsonl", [{"text": t} for t in texts(9)])
    both = (f"train.real={file}", f"gate.text={file}")
    notes = loop.plan(small.recipe(*both, "gate.text_items=4")).notes
    assert "train.real: 4 of its texts stand in gate.text and are not learned" in notes
    with pytest.raises(DataError, match=r"All texts of train\.real stand in gate\.text"):
        loop.plan(small.recipe(*both, "gate.text_items=9"))
