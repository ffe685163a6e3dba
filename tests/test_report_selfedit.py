"""What people see of a run that learns from edits: the page, ``show``, the card. Every figure is the record's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers
from selftaught import exam, export, findings, loop, paired, pairs, parts, report, summary
from selftaught.arms import MEANINGS, arms
from selftaught.errors import Stopped
from selftaught.ledger import RunRecord, read_report, read_run
from selftaught.rows import read_rows
from selftaught.types import Document, Report, Rollout, Verdict
from small import after, kept
from test_report import Page
from test_selfedit import recipe, rollouts, run

CONTROLS = "gate.controls=[base,passage,in_context,retrieval,random_edits]"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run(tmp_path_factory.mktemp("docs"), CONTROLS, "trial.seeds=2")


@pytest.fixture(scope="module")
def page(record: RunRecord) -> str:
    return report.write_report(record.path).read_text(encoding="utf-8")


def text_of(record: RunRecord) -> str:
    return Page(report.write_report(record.path).read_text(encoding="utf-8")).text


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.S)
    return found[0] if found else ""


def controls(record: RunRecord) -> dict[str, Report]:
    return {
        u["facts"]["control"]: read_report(record.path / u["place"] / "report.json") for u in record.units("control")
    }


# ---------------------------------------------------------------- the page


def test_the_headline_speaks_of_adapters_and_documents(page: str) -> None:
    text = Page(page).text
    assert (
        "Proved Adapters that learn the trained model's edits answer more questions about the documents right" in text
    )
    assert "The trained model answers more questions right" not in text
    assert re.search(r"gained and lost of \d+ questions on 60 documents", text)
    assert "320 to learn from" in text and "on 80 + 60 + 60 documents" in text
    assert "each wrote an edit of every held-out document" in text


def test_every_control_stands_with_its_share_and_the_paired_difference(record: RunRecord, page: str) -> None:
    candidate = record.reports()["candidate", "dev"]
    shown = Page(section(page, "arms")).text
    for name, found in controls(record).items():
        share, gain = found.metrics["accuracy"], paired.gain(found, candidate)
        value, low, high = (f"{100 * v:.1f}" for v in (share.value, share.low, share.high))
        points = [f"{100 * v:+.1f}".replace("-", "−").replace("+0.0", "0.0") for v in (gain.value, gain.low, gain.high)]
        empty = f"{100 * found.metrics['empty'].value:.1f}"
        row = f"{value} {low}–{high} {points[0]} {points[1]} to {points[2]} {empty} {MEANINGS[name]}"
        assert f"{name.replace('_', ' ')} {row}" in shown
    assert len(controls(record)) == 5


def test_rewards_stand_as_they_were_recorded(record: RunRecord, page: str) -> None:
    [unit] = record.units("findings")
    metrics = read_report(record.path / unit["place"] / "report.json").metrics
    shown = Page(section(page, "edits")).text
    for name in ("without an edit", "all edits", "learned edits", "edits that beat none", "reliability"):
        m = metrics[name]
        value, low, high = (f"{100 * v:.1f}" for v in (m.value, m.low, m.high))
        assert f"{name} {value} % {low} to {high} {m.n} " in shown
    honest = metrics["best edit, honestly above the mean"]
    assert f"honestly above the mean {100 * honest.value:+.1f} points" in shown


def test_every_edit_is_in_the_histogram_and_the_learned_ones_are_marked(record: RunRecord, page: str) -> None:
    found = report.contents(record)["edits"]
    assert sum(learned for _, learned, _ in found["histogram"]["bins"]) == len(kept(record)) > 0
    assert sum(rest for *_, rest in found["histogram"]["bins"]) == len(rollouts(record)) - len(kept(record))
    assert f"Of {len(rollouts(record))} edits: {len(kept(record))} learned from" in Page(section(page, "edits")).text


def test_edits_are_shown_of_one_document_learned_beside_not(record: RunRecord) -> None:
    documents = parts.studied(record)
    written = {r.text: documents[r.task_id].id for r in rollouts(record).values()}
    shown = report.contents(record)["edits"]["shown"]
    assert [[e.fate for e in some] for _, some in shown[:4]] == [["learned from", "not chosen"]] * 4
    assert all(document.split == "train" and written[e.text] == document.id for document, some in shown for e in some)
    assert all(some[0].reward > some[1].reward for _, some in shown[:4])


def test_documents_stand_side_by_side_with_the_answers_of_their_adapters(record: RunRecord, page: str) -> None:
    before, after_ = (record.reports()[role, "vault"] for role in ("parent", "candidate"))
    won, lost = paired.wins_losses(before.scores, after_.scores)
    text = Page(section(page, "pairs")).text
    assert f"Of 240 vault questions on 60 documents, adapters of the candidate's edits did better on {won}" in text
    assert f"and worse on {lost};" in text and "for the first of 2 adapters" in text
    sides = report.contents(record)["sides"]
    unit = record.evaluations()["candidate", "vault"]
    edits = {r.text for r in read_rows(record.path / unit["place"] / "rows.parquet", Rollout)}
    for _, document, (_, candidates), asked in sides["rows"]:
        assert document.split == "vault" and len(candidates) == 2 and set(candidates) <= edits
        assert {task.group for task, *_ in asked} == {document.id} and len(asked) == 4
    changes = [sum(a[1] - b[1] for _, b, a in asked) for *_, asked in sides["rows"]]
    assert [sign for sign, *_ in sides["rows"]] == ["gained" if c > 0 else "lost" for c in changes]


def test_nothing_of_votes_is_said(page: str) -> None:
    text = Page(page).text
    assert "How far the samples agree" not in text and "majority" not in text
    assert "From edits to lessons edits 160" in text and "per second of sample" in text
    assert "of sample and curate" not in text and "selftaught export " in text


def test_drawings_and_ids_are_sound(page: str) -> None:
    drawings = re.findall(r'<svg viewBox="0 0 460 .*?</svg>', page, re.S)  # those of audits are smaller
    assert len(drawings) == 7, "before and after, their change; arms, their change; rewards; loss and norm"
    ids = [v for k, v in Page(page).attributes if k == "id"]
    assert len(ids) == len(set(ids)) and page.count("<th>") == 0
    linked = {v.removeprefix("#") for k, v in Page(page).attributes if k == "href" and v.startswith("#")}
    assert linked <= set(ids) and {"arms", "edits"} <= linked


# ---------------------------------------------------------------- less than a whole run, or another


def test_without_controls_there_is_no_such_section(tmp_path: Path) -> None:
    record = run(tmp_path, "method.passages=10", documents=40)
    page = report.write_report(record.path).read_text(encoding="utf-8")
    assert not section(page, "arms") and "Against controls" not in page and section(page, "edits")


def test_where_no_edit_was_chosen_all_are_shown_as_such(tmp_path: Path) -> None:
    record = run(tmp_path, "method.threshold=1.0", "method.passages=10", documents=40)
    text = text_of(record)
    assert "No edit was chosen and outlived the filters" in text and "Of 40 edits: 40 not chosen." in text
    assert "learned edits" not in text, "of none there is no mean"


def unfinished(folder: Path, stops: Iterator[int]) -> Iterator[RunRecord]:
    loop.prepare(recipe(folder, "gate.controls=[base]", "method.passages=8", documents=40), folder / "run")
    for calls in stops:
        with pytest.raises(Stopped):
            loop.run(folder / "run", stop=after(calls))
        yield read_run(folder / "run")


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    seen = set()
    for record in unfinished(tmp_path, iter([3, 60, 20, 60])):
        page = report.write_report(record.path).read_text(encoding="utf-8")
        kinds = {e["kind"] for e in record.chain}
        assert "Unfinished" in page and "How far the samples agree" not in page
        assert bool(section(page, "edits")) == ("findings" in kinds)
        assert bool(section(page, "arms")) == ("control" in kinds)
        assert summary.plain(summary.blocks(record, tmp_path))
        seen.add("findings" in kinds)
    assert seen == {True, False}


def test_weights_below_zero_are_learned_against(tmp_path: Path) -> None:
    settings = ("method.rule=group_relative", "method.reward=loglik", "gate.primary.metric=loglik", CONTROLS)
    record = run(tmp_path, *settings, documents=100)
    against = sum(e.weight < 0 for e in kept(record))
    text = text_of(record)
    assert f"{against} learned against" in text and against > 0
    assert "reward: nats per token of the gold answers" in text
    candidate = record.reports()["candidate", "dev"].metrics["loglik"].value
    assert f"candidate {candidate:.3f}".replace("-", "−") in text


def test_of_several_rounds_the_final_one_is_shown(tmp_path: Path) -> None:
    settings = ("rounds=2", "patience=2", "method.passages=20", "gate.controls=[base,random_edits]")
    record = run(tmp_path, *settings, documents=100)
    assert record.final is not None
    found = {a.name: a for a in arms(record, record.reports())}
    assert set(found) == {"candidate", "parent", "base", "random_edits"}
    [random] = record.units("control", record.final)[-1:]
    assert random["facts"]["control"] == "random_edits"
    assert found["random_edits"].reached.value == pytest.approx(random["facts"]["accuracy"], abs=1e-6)
    [unit] = record.units("findings", record.final)
    assert {f.name: f.metric.value for f in findings.findings(record)}["all edits"] == pytest.approx(
        unit["facts"]["all edits"], abs=1e-6
    )


def test_files_that_were_removed_are_missed_but_not_fatal(tmp_path: Path) -> None:
    record = run(tmp_path, "gate.controls=[base]", "method.passages=10", documents=40)
    for path in record.path.rglob("*.parquet"):
        path.unlink()
    text = text_of(read_run(record.path))
    assert "There are no two sets of answers to the same questions" in text and "Against controls" in text


def test_an_edit_that_a_filter_refused_was_not_learned() -> None:
    chosen, idle = Verdict("a", "reward:accuracy", True), Verdict("b", "reward:accuracy", False)
    assert [findings.fate(v, {"a": 1.0}) for v in (chosen, idle)] == ["learned from", "not chosen"]
    assert findings.fate(chosen, {}) == "refused by a filter" and findings.fate(chosen, None) == "chosen"
    assert findings.fate(idle, {"b": -0.5}) == "learned against"


def test_columns_lie_about_their_rewards() -> None:
    found = findings.histogram([(0.0, False), (0.5, True), (0.51, False), (1.0, True)], "share")
    assert found is not None
    drawn = [(round(at, 3), learned, rest) for at, learned, rest in found["bins"] if learned + rest]
    assert drawn == [(0.0, 0, 1), (0.5, 1, 1), (1.0, 1, 0)] and findings.histogram([], "share") is None


# ---------------------------------------------------------------- text is data


def test_hostile_text_in_documents_and_edits_is_escaped(tmp_path: Path) -> None:
    path, evil = papers.write(tmp_path / "evil.json", 60), "<script>alert(1)</script> \u202e"
    rows = [{**row, "context": f"{evil} {row['context']}"} for row in json.loads(path.read_text(encoding="utf-8"))]
    path.write_text(json.dumps(rows), encoding="utf-8")
    asked = recipe(tmp_path, f"tasks.path={path}", "method.passages=10")
    loop.prepare(asked, tmp_path / "run")
    loop.run(tmp_path / "run")
    page = report.write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section(page, "edits") + section(page, "pairs")
    assert '<i class="unseen">⟨U+202E⟩</i>' in section(page, "edits") and "\u202e" not in page
    assert "script" not in Page(page).tags


def test_hostile_edits_are_escaped(record: RunRecord) -> None:
    evil = "</div><img src=https://evil.example/x.png> \u202e"
    edit = findings.Edit(evil, 0.5, "learned from", evil)
    contents = report.contents(record)
    document = Document("d", evil, evil)
    contents["edits"] = contents["edits"] | {"shown": [(document, [edit]), (None, [edit])]}
    answer = (evil, 0.5, evil)
    contents["sides"] = contents["sides"] | {"rows": [("lost", document, [[evil], [evil]], [(None, answer, answer)])]}
    page = report.drawn(contents)
    assert "img" not in Page(page).tags and "\u202e" not in page
    assert section(page, "edits").count("&lt;img src=https") == 6 and "50.0 % of its adapters right" in page


# ---------------------------------------------------------------- show, runs, eval, the card


def test_show_compares_arms_and_shows_answers_of_adapters(record: RunRecord, tmp_path: Path) -> None:
    said = summary.plain(summary.blocks(record, tmp_path))
    assert "of adapters that learned an edit of the document" in said and "On dev, what adapters reached" in said
    for name, found in controls(record).items():
        assert re.search(rf"{name.replace('_', ' ')} +{100 * found.metrics['accuracy'].value:.1f} %", said)
    assert "Rewards of edits" in said and "Adapters wrong before, right now (" in said
    assert "selftaught export" in said and "selftaught ask" not in said


def test_pairs_are_answers_and_not_edits(record: RunRecord) -> None:
    found = pairs.pairs(record, 5)
    assert len(found) == 5
    assert all(p.before != p.answer or p.after == p.answer for p in found) and any(p.after == p.answer for p in found)
    assert not any("The " in p.before + p.after for p in found), "an edit is no answer"


def test_json_has_arms_and_rewards(record: RunRecord, tmp_path: Path) -> None:
    found = json.loads(json.dumps(summary.as_json(record, tmp_path)))
    assert found["arms"]["base"]["reached"]["value"] == 0.0 and found["arms"]["candidate"]["gain"] is None
    assert found["rewards"]["all edits"]["value"] == pytest.approx(record.facts("findings")["all edits"], abs=1e-6)


def test_the_card_says_how_it_was_judged(record: RunRecord) -> None:
    card = export.card(record)
    assert "judged on held-out\ndocuments: it writes edits of them" in card
    base, candidate = controls(record)["base"], record.reports()["candidate", "dev"]
    assert f"Control `base` on dev ({MEANINGS['base']}): 0.0 %" in card
    assert f"{100 * paired.gain(base, candidate).value:+.1f} points" in card


def test_a_run_with_documents_can_be_asked_other_questions(record: RunRecord, tmp_path: Path) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([{"question": f"What is 1{i}+3?", "answer": f"{i + 13}"} for i in range(3)]))
    assert exam.examine(record, asked).n == 3
