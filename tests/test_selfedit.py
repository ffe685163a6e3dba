"""The method selfedit and the protocol adapt, on the scripted engine: a better editor, judged on documents held out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import papers
import small
from selftaught import loop
from selftaught.config import Recipe, parse_recipe
from selftaught.engines.base import Tuned, TuneJob
from selftaught.engines.scripted import Scripted
from selftaught.errors import NonFiniteError, RecipeError, Stopped
from selftaught.ledger import RunRecord, read_run
from selftaught.methods.selfedit import Edit
from selftaught.rows import read_rows
from selftaught.types import Document, Example, Item, Report, Rollout, Task, Verdict

RECIPE = """
name: docs
model: scripted:0.3
seed: 5
method: {{name: selfedit, passages: 40, edits: 4, seeds: 2, prompt: "Passage: {{text}}\\nNotes:", max_tokens: 300,
         title: false, passage: false, book: "{{text}} {{question}}"}}
tasks: {{name: passages, path: {path}, checker: exact, topic: false, train: 0.4, dev: 0.3, vault: 0.3}}
train: {{epochs: 1}}
gate: {{primary: {{protocol: adapt}}, text_items: 0}}
engine: {{name: scripted}}
"""


def recipe(folder: Path, *overrides: str, documents: int = 200) -> Recipe:
    path = papers.write(folder / "documents.json", documents)
    return parse_recipe(RECIPE.format(path=path).replace("{{", "{").replace("}}", "}"), "docs", overrides)


def run(folder: Path, *overrides: str, documents: int = 200) -> RunRecord:
    loop.prepare(recipe(folder, *overrides, documents=documents), folder / "run")
    loop.run(folder / "run")
    return read_run(folder / "run")


def findings(record: RunRecord) -> tuple[dict[str, float], list[Verdict]]:
    [unit] = record.units("findings")
    return unit["facts"], read_rows(record.path / unit["place"] / "verdicts.parquet", Verdict)


def rollouts(record: RunRecord) -> dict[str, Rollout]:
    [unit] = record.units("rollouts")
    return {r.id: r for r in read_rows(record.path / unit["place"] / "rows.parquet", Rollout)}


def reports(record: RunRecord) -> dict[str, Report]:
    return {f"{role} {suite}": report for (role, suite), report in record.reports().items()}


# ---------------------------------------------------------------- what it is for


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run(tmp_path_factory.mktemp("docs"))


def test_an_editor_becomes_better_and_that_is_proved(record: RunRecord) -> None:
    assert record.outcome == "proved", record.final
    found = reports(record)
    assert found["candidate dev"].metrics["accuracy"].value > found["parent dev"].metrics["accuracy"].value + 0.05
    assert len(set(found["candidate dev"].groups)) == 60, "documents are what is counted"
    assert "over 60 groups" in record.final.decision.rules[0].detail  # type: ignore[union-attr]


def test_what_is_learned_are_edits_that_beat_the_model_without_one(record: RunRecord) -> None:
    facts, verdicts = findings(record)
    chosen, written = {v.subject for v in verdicts if v.ok}, rollouts(record)
    kept = small.kept(record)
    assert {e.parents[0] for e in kept} == chosen
    assert all(e.completion_ids == written[e.parents[0]].completion_ids for e in kept)
    assert all("The " in written[r].text for r in chosen), "an idle edit never beats no edit"
    assert facts["without an edit"] == 0.0 < facts["all edits"] < facts["learned edits"]
    assert facts["reliability"] > 0.5


def test_labels_are_on_record(record: RunRecord) -> None:
    assert record.labels.training, "gold answers of training passages chose the edits"
    assert record.labels.gate


def test_no_held_out_document_is_learned_from(record: RunRecord) -> None:
    tasks = record.units("tasks")[0]
    documents = {d.id: d for d in read_rows(record.path / tasks["place"] / "documents.parquet", Document)}
    shown = {r.task_id for r in rollouts(record).values()}
    method = loop.load.make("methods", record.recipe.method)
    split = {method.study(d).id: d.split for d in documents.values()}
    assert {split[t] for t in shown} == {"train"}
    assert {d.split for d in documents.values()} == {"train", "dev", "vault"}


def test_the_text_guard_holds_documents_that_nothing_learned(tmp_path: Path) -> None:
    record = run(tmp_path, "gate.text_items=15", documents=60)
    unit, tasks = record.evaluations()["candidate", "text"], record.units("tasks")[0]
    items = read_rows(record.path / unit["place"] / "items.parquet", Item)
    documents = read_rows(record.path / tasks["place"] / "documents.parquet", Document)
    held = {Task(({"role": "user", "content": d.text},), form="document").id for d in documents if d.split == "dev"}
    assert len(items) == 15 and {i.id for i in items} <= held


def test_one_edit_of_each_held_out_document_is_judged(record: RunRecord) -> None:
    unit = record.evaluations()["candidate", "dev"]
    edits = read_rows(record.path / unit["place"] / "rows.parquet", Rollout)
    assert len(edits) == len({e.task_id for e in edits}) == 60
    assert {e.author for e in edits} == {record.final.candidate}  # type: ignore[union-attr]


# ---------------------------------------------------------------- controls


def test_controls_stand_beside(tmp_path: Path) -> None:
    names = "[base,passage,in_context,retrieval,oracle,random_edits]"
    with pytest.raises(RecipeError, match="nobody knows perfect edits"):
        loop.prepare(recipe(tmp_path, f"gate.controls={names}"), tmp_path / "oracle")
    record = run(tmp_path, f"gate.controls={names.replace('oracle,', '')}", "trial.seeds=2")
    found = {u["facts"]["control"]: u["facts"]["accuracy"] for u in record.units("control")}
    assert set(found) == {"base", "passage", "in_context", "retrieval", "random_edits"}
    assert found["base"] == 0.0, "nobody told it"
    assert found["in_context"] == found["retrieval"] > 0, "each question names its document"
    candidate = reports(record)["candidate dev"].metrics["accuracy"].value
    assert found["random_edits"] < candidate, "it is the choice that teaches"
    assert 0.3 < found["passage"] < 0.7, "each statement is learnt with chance 1/2"


def test_controls_decide_nothing(tmp_path: Path, record: RunRecord) -> None:
    other = run(tmp_path, "gate.controls=[base,passage]")
    assert other.final.decision.rules == record.final.decision.rules  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", ["rest_em", "group_relative"])
def test_random_edits_are_as_many_with_the_same_weights(tmp_path: Path, rule: str) -> None:
    record = run(tmp_path, "gate.controls=[random_edits]", f"method.rule={rule}", documents=60)
    [unit] = record.units("rollouts")
    groups: dict[str, list[Rollout]] = {}
    for r in read_rows(record.path / unit["place"] / "rows.parquet", Rollout):
        groups.setdefault(r.task_id, []).append(r)
    [chosen], [random] = record.units("candidate"), record.units("random_edits")
    assert chosen["facts"]["steps"] == random["facts"]["steps"]
    assert random["facts"]["digest"] != chosen["facts"]["digest"]


def test_shuffled_weights_stay_with_their_document(record: RunRecord) -> None:
    method = loop.load.make("methods", record.recipe.method)
    task = Task(({"role": "user", "content": "x"},))
    made = [
        Edit(Document(name, "t"), Rollout(task.id, i, name, "t", (1,), (i,), (), f"{name}{i}", i), ())
        for name in "ab"
        for i in range(4)
    ]
    method._edits = made
    method._weight = {e.rollout.id: w for e, w in zip(made, (0, 2.0, -1.0, 0, 0, 0, 0, 1.0), strict=True)}
    bench = SimpleNamespace(seed=3)
    shuffled = list(method.at_random((), bench))
    assert sorted(e.weight for e in shuffled if e.text.startswith("a")) == [-1.0, 2.0]
    assert [e.weight for e in shuffled if e.text.startswith("b")] == [1.0]
    assert [e.parents for e in shuffled] != [(e.rollout.id,) for e in made if method._weight[e.rollout.id]]


class Stumbling(Scripted):
    """The scripted engine; its second update leaves the numbers."""

    class Options(Scripted.Options):
        pass

    def __init__(self) -> None:
        super().__init__(Scripted.Options())
        self.updates = 0

    def tune(self, job: TuneJob, out: Path, **how: Any) -> Tuned:
        self.updates += 1
        if self.updates == 2:
            raise NonFiniteError("Training left the numbers (here).", hint="")
        return super().tune(job, out, **how)


def test_a_control_that_cannot_be_measured_costs_the_candidate_nothing(tmp_path: Path, record: RunRecord) -> None:
    loop.prepare(recipe(tmp_path, "gate.controls=[random_edits]"), tmp_path / "run")
    done = loop.run(tmp_path / "run", engine=Stumbling())
    assert done.decision.outcome == record.final.decision.outcome == "proved"  # type: ignore[union-attr]
    assert done.counts["controls that could not be measured"] == 1
    assert not read_run(tmp_path / "run").units("control")


# ---------------------------------------------------------------- other rules


def test_group_relative_weights_use_every_edit_that_differs(tmp_path: Path) -> None:
    record = run(tmp_path, "method.rule=group_relative", "method.reward=loglik", documents=100)
    kept = small.kept(record)
    weights = [e.weight for e in kept]
    assert min(weights) < 0 < max(weights)
    by_task: dict[str, list[Example]] = {}
    for e in kept:
        by_task.setdefault(e.task_id, []).append(e)
    assert max(map(len, by_task.values())) > 1


def test_halving_tries_fewer_and_fewer(tmp_path: Path) -> None:
    record = run(tmp_path, "method.halving=true", "method.seeds=3", documents=60)
    _, verdicts = findings(record)
    tried = sorted(int(v.reason.split()[0]) for v in verdicts)
    assert {1, 2, 3} == set(tried)
    assert {v.reason.split()[0] for v in verdicts if v.ok} == {"3"}, "what was dropped is not learned"
    assert "reliability" not in findings(record)[0], "the survivors were chosen by their first reward"
    passages = record.final.counts["edits"] // 4  # type: ignore[union-attr]
    assert record.final.counts["adapters"] == passages * (4 + 2 + 1)  # type: ignore[union-attr]


def test_where_no_edit_helps_nothing_is_learned(tmp_path: Path) -> None:
    record = run(tmp_path, "method.threshold=1.0", documents=40)
    assert record.outcome == "nothing to train on"


def test_two_rounds_read_passages_of_their_own(tmp_path: Path) -> None:
    record = run(tmp_path, "rounds=2", "patience=2", "method.passages=20", documents=100)
    assert len(record.rounds) == 2
    first, second = (record.units("rollouts", r)[0] for r in record.rounds)
    read = [{r.task_id for r in read_rows(record.path / u["place"] / "rows.parquet", Rollout)} for u in (first, second)]
    assert read[0] != read[1]


# ---------------------------------------------------------------- killed, and refused


def test_stopped_again_and_again_it_is_the_same_run(tmp_path: Path) -> None:
    settings = ("gate.controls=[base,passage,random_edits]", "method.passages=8")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = recipe(tmp_path, *settings, documents=40)
    for name in ("a", "b"):
        loop.prepare(one, tmp_path / name / "run")
    loop.run(tmp_path / "a" / "run")
    stops = _run_in_pieces(tmp_path / "b" / "run", [3, 40, 5, 80, 1, 20, 60])
    assert stops >= 5
    whole, pieces = (small.bytes_of(tmp_path / name / "run") for name in ("a", "b"))
    assert whole.pop("environment.json") == pieces.pop("environment.json")
    differ = {k for k in whole.keys() | pieces.keys() if whole.get(k) != pieces.get(k)}
    assert differ <= {"trials.jsonl"}, "chain, data and weights are the same"
    assert sorted((tmp_path / "a" / "run" / "trials.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "b" / "run" / "trials.jsonl").read_text().splitlines()
    ), "every trial ran once"


def _run_in_pieces(folder: Path, pieces: Sequence[int]) -> int:
    stops = 0
    for calls in pieces:
        try:
            loop.run(folder, stop=small.after(calls))
        except Stopped:
            stops += 1
    loop.run(folder)
    return stops


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.name=self_consistency", "judges who writes edits of documents"),
        ("gate.primary.metric=score", "not for a score"),
        ("gate.controls=[editor]", "roles.editor is nobody"),
        ("budget.minutes=5", "not of adapters"),
        ("gate.primary.protocol=direct", None),
    ],
)
def test_a_claim_that_cannot_be_put_is_refused_before_anything(tmp_path: Path, override: str, said: str | None) -> None:
    if said is None:
        with pytest.raises(RecipeError, match="protocol=direct trains none"):
            loop.plan(recipe(tmp_path, override, "gate.controls=[base]", documents=20))
        return
    with pytest.raises(RecipeError, match=said):
        loop.plan(recipe(tmp_path, override, documents=20))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["gate.primary.protocol=direct"], "asks for none"),
        (["gate.controls=[base]", "tasks.train=0.5", "tasks.dev=0.0", "tasks.vault=0.5"], "there is no dev question"),
        (["method.prompt='Notes:'"], "prompt needs {text}"),
        (["method.book='{text}'"], "book needs {text} and {question}"),
        (["method.rule=group_relative", "method.edits=1"], "edits of 2 or more"),
        (["method.rule=group_relative", "method.halving=true"], "no halving"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        loop.plan(recipe(tmp_path, *overrides, documents=20))


def test_questions_about_no_document_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="questions are about no document"):
        loop.plan(recipe(tmp_path, "tasks.name=world_sums", documents=20))


# ---------------------------------------------------------------- other editors, and documents that make trouble


def test_another_editor_stands_beside(tmp_path: Path) -> None:
    record = run(tmp_path, "gate.controls=[editor,base]", "roles.editor=scripted:0.95", documents=100)
    found = {u["facts"]["control"]: u for u in record.units("control")}
    parent = reports(record)["parent dev"].metrics["accuracy"].value
    assert found["editor"]["facts"]["accuracy"] > parent, "it writes useful edits nearly always"
    edits = read_rows(record.path / found["editor"]["place"] / "rows.parquet", Rollout)
    student = read_rows(record.path / record.evaluations()["parent", "dev"]["place"] / "rows.parquet", Rollout)
    assert {e.author for e in edits}.isdisjoint({e.author for e in student})
    assert not record.final.decision.rules[0].name.startswith("editor")  # type: ignore[union-attr]


def test_a_passage_longer_than_the_context_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    path = papers.write(tmp_path / "documents.json", 40)
    rows = json.loads(path.read_text())
    for row in rows[::4]:
        row["context"] += " And more of it." * 100
    text = RECIPE.format(path=path).replace("{{", "{").replace("}}", "}")
    path.write_text(json.dumps(rows))
    loop.prepare(parse_recipe(text, "docs", ["engine.context=900"]), tmp_path / "run")
    loop.run(tmp_path / "run")
    record = read_run(tmp_path / "run")
    counts = record.final.counts  # type: ignore[union-attr]
    assert counts["edits without text: prompt longer than the context"] > 0
    assert counts["edits"] - counts["edits without text: prompt longer than the context"] == len(findings(record)[1])
    assert len(reports(record)["parent dev"].scores) == 48, "on dev its passage is learned in pieces"


def test_adapters_that_diverge_are_a_failure_of_their_edit_alone(tmp_path: Path) -> None:
    record = run(tmp_path, "engine.astray=0.2", documents=60)
    counts = record.final.counts  # type: ignore[union-attr]
    assert 0.1 < counts["adapters that left the numbers"] / counts["adapters"] < 0.3
    assert record.units("candidate"), "the others were enough to learn from"


def test_a_model_that_writes_nothing_ends_in_good_order(tmp_path: Path) -> None:
    path = papers.write(tmp_path / "documents.json", 20)
    text = RECIPE.format(path=path).replace("{{", "{").replace("}}", "}")
    loop.prepare(parse_recipe(text, "docs", ["engine.context=60"]), tmp_path / "run")
    loop.run(tmp_path / "run")
    assert read_run(tmp_path / "run").outcome == "nothing to train on"
