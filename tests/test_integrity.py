"""A record that was tampered with is named, whatever was touched; an honest one passes every check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import small
from selftaught import ledger, loop, mishaps
from selftaught.errors import IntegrityError, RecipeError
from selftaught.integrity import verify
from selftaught.report import write_report
from selftaught.store import Store, append_line, check_files, file_digest, read_chain
from selftaught.types import canonical, digest


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small.prepared(tmp_path_factory.mktemp("runs") / "run")
    assert loop.run(folder).decision.outcome == "proved"
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent, tmp_path / "runs")
    return tmp_path / "runs" / "run"


def wrong(folder: Path, head: str | None = None) -> dict[str, str]:
    return {c.name: c.detail for c in verify(folder, head) if not c.ok}


def remade(folder: Path, change: Callable[[dict], None]) -> None:
    """The chain with ``change`` made to each entry, every link forged anew: what its writer could do."""
    previous, lines = "0" * 64, []
    for entry in read_chain(folder):
        change(entry)
        body = {k: v for k, v in entry.items() if k != "hash"} | {"prev": previous}
        previous = digest(body)
        lines.append(canonical(body | {"hash": previous}))
    (folder / "chain.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def test_an_honest_record_passes_and_says_its_head(run: Path) -> None:
    before = small.bytes_of(run)
    assert wrong(run) == {}
    head = read_chain(run)[-1]["hash"]
    assert head in verify(run)[0].detail
    assert wrong(run, head[:16]) == {} and small.bytes_of(run) == before, "it reads only"


def test_every_flipped_byte_is_named(run: Path) -> None:
    """Scorecard row 3: one byte in each committed file."""
    for entry in read_chain(run):
        for name in entry.get("files", ()):
            path = run / entry["place"] / name
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            assert str(path) in wrong(run)["files"]
            path.write_bytes(data)
    assert wrong(run) == {}


def test_a_missing_and_an_added_file_are_named(run: Path) -> None:
    added = run / "round-000" / "examples" / "more.parquet"
    added.write_bytes(b"x")
    assert f"{added} was never committed" in wrong(run)["files"]
    added.unlink()
    gone = run / "round-000" / "examples" / "kept.parquet"
    gone.unlink()
    assert f"{gone} is missing" in wrong(run)["files"] and "kept.parquet" in wrong(run)["counts"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "cut in half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "a byte more": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damaged_file_of_a_unit_is_named_and_refused_before_use(run: Path, damage: str) -> None:
    for entry in read_chain(run):
        for name in entry.get("files", ()):
            path = run / entry["place"] / name
            data = path.read_bytes()
            path.write_bytes(DAMAGE[damage](data))
            assert f"{path} is not what was recorded" in wrong(run)["files"]
            with pytest.raises(IntegrityError, match=r"is not what was recorded"):
                check_files(path.parent, {path.name: entry["files"][name]})
            path.write_bytes(data)
    assert wrong(run) == {}


@pytest.mark.parametrize("damage", ["zeros", "empty", "gone"])
@pytest.mark.parametrize("name", ["chain.jsonl", "journal.jsonl", "recipe.yaml"])
def test_a_damaged_file_of_the_record_is_named(run: Path, name: str, damage: str) -> None:
    if damage == "gone":
        (run / name).unlink()
    else:
        (run / name).write_bytes(DAMAGE[damage]((run / name).read_bytes()))
    if name == "recipe.yaml":
        with pytest.raises(RecipeError, match=r"recipe\.yaml"):
            verify(run)
        return
    said = "quote a chain that is not there" if name == "chain.jsonl" else "it is empty or gone"
    assert said in wrong(run)["journal"]
    if name == "chain.jsonl":
        with pytest.raises(IntegrityError, match="entries that the journal quotes are missing"):
            loop.run(run)


@pytest.mark.parametrize("damage", ["zeros", "cut in half", "gone"])
def test_what_stands_beside_the_record_is_left_out_of_a_report_when_it_is_damaged(run: Path, damage: str) -> None:
    path = run / "environment.json"
    assert "<dd>scripted</dd>" in write_report(run).read_text()
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(DAMAGE[damage](data))
    assert "<dd>scripted</dd>" not in write_report(run).read_text()


def test_a_missing_shard_is_named_and_the_model_not_used(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")

    def make(out: Path) -> dict[str, str]:
        for shard in (1, 2, 3):
            save_file({f"layer.{shard}": np.ones(2)}, out / f"model-0000{shard}-of-00003.safetensors")
        return {"kind_folder": ""}

    with Store(folder) as store:
        unit = store.unit("candidate", 0, "round-000/candidate", make)
    shard = unit.folder / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert wrong(folder)["files"] == f"{shard} is missing"
    with pytest.raises(IntegrityError, match=r"00002-of-00003\.safetensors is missing"):
        ledger.read_run(folder).check_candidate()
    with Store(folder) as store, pytest.raises(IntegrityError, match="is missing"):
        store.unit("candidate", 0, "round-000/candidate", make)


def moved_out(path: Path, outside: Path) -> Path:
    """Whatever lies at ``path`` lies at ``outside`` now, and a link leads there: every byte reads the same."""
    path.rename(outside)
    path.symlink_to(outside)
    return path


@pytest.mark.parametrize("place", ["round-000", "round-000/examples", "tasks", "round-000/evaluate/parent-dev"])
def test_a_folder_of_the_record_replaced_by_a_link_is_refused(run: Path, place: str) -> None:
    """Scorecard row 19: the same bytes today, but of a file that is not the record's and may be changed tomorrow."""
    moved_out(run / place, run.parent / "outside")
    assert "it names a file outside the run folder" in wrong(run)["chain"]
    for use in (ledger.read_run, loop.run, write_report, Store):
        with pytest.raises(IntegrityError, match="it names a file outside the run folder"):
            use(run)


@pytest.mark.parametrize("name", ["model", "model/scripted.json", "train.json"])
def test_a_file_of_a_unit_replaced_by_a_link_is_refused(run: Path, name: str) -> None:
    path = moved_out(run / "round-000" / "candidate" / name, run.parent / "outside")
    assert f"{path if path.is_file() else path / 'scripted.json'} is reached by a link" in wrong(run)["files"]
    with pytest.raises(IntegrityError, match="is reached by a link"):
        ledger.read_run(run).check_candidate()
    with pytest.raises(IntegrityError, match="is reached by a link"):
        loop.ask(run, "1+1")


def test_a_chain_forged_to_name_a_link_that_leads_outside_is_refused(run: Path) -> None:
    (run.parent / "outside").mkdir()
    (run.parent / "outside" / "kept.parquet").write_bytes(b"x")
    (run / "way").symlink_to(run.parent / "outside")

    def forge(entry: dict) -> None:
        if entry["kind"] == "examples":
            entry["place"] = "way"

    remade(run, forge)
    assert "outside the run folder" in wrong(run)["chain"]


def test_a_link_added_to_a_unit_is_named(run: Path) -> None:
    for name, target in (("a", run.parent), ("b", run / "recipe.yaml"), ("c", run / "nowhere")):
        (run / "tasks" / name).symlink_to(target)
        assert f"{run / 'tasks' / name} was never committed" in wrong(run)["files"]
        (run / "tasks" / name).unlink()


def test_runs_may_lie_behind_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "big-disk").symlink_to(run.parent)
    assert wrong(tmp_path / "big-disk" / "run") == {}


def test_an_edited_chain_is_named(run: Path) -> None:
    chain = run / "chain.jsonl"
    chain.write_text(chain.read_text().replace('"outcome":"proved"', '"outcome":"accept"'))
    assert list(wrong(run)) == ["chain"]


def test_a_chain_cut_short_is_known_by_the_journal_and_the_noted_head(run: Path) -> None:
    head = read_chain(run)[-1]["hash"]
    chain = run / "chain.jsonl"
    chain.write_text("".join(line + "\n" for line in chain.read_text().splitlines()[:-1]))
    found = wrong(run, head)
    assert set(found) == {"journal", "noted head"}
    assert head in found["noted head"] and "finished" in found["journal"]


def test_a_decision_forged_with_every_link_made_anew_is_not_what_the_reports_say(run: Path) -> None:
    def forge(entry: dict) -> None:
        if entry["kind"] == "round":
            entry["round"]["decision"]["outcome"] = "accepted"

    remade(run, forge)
    assert "recorded as accepted; its reports say proved" in wrong(run)["decision"]


@pytest.mark.parametrize("part", ["scores", "metrics"])
def test_a_report_that_is_not_what_its_items_say_is_named(run: Path, part: str) -> None:
    """Every link and digest forged anew, and the decision as before: only the items tell."""
    place = run / ledger.read_run(run).evaluations()["parent", "dev"]["place"]
    data = json.loads((place / "report.json").read_text())
    if part == "scores":
        data["scores"].sort()  # the mean is as before
    else:
        data["metrics"]["accuracy"]["value"] -= 0.1
    (place / "report.json").write_bytes(canonical(data) + b"\n")

    def forge(entry: dict) -> None:
        if entry.get("place") and run / entry["place"] == place:
            entry["files"]["report.json"] = file_digest(place / "report.json")

    remade(run, forge)
    said = "scores are not those of its items" if part == "scores" else "accuracy is not the mean of its scores"
    assert said in wrong(run)["answers"]


def test_counts_that_do_not_add_up_are_named(run: Path) -> None:
    def forge(entry: dict) -> None:
        if entry["kind"] == "examples":
            entry["facts"]["counts"]["made"] += 1

    remade(run, forge)
    assert "made" in wrong(run)["counts"]


def test_another_recipe_is_named(run: Path) -> None:
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("seed: 5", "seed: 6"))
    assert "not the recipe" in wrong(run)["recipe"]


def test_a_look_taken_out_of_the_registry_is_named(run: Path) -> None:
    (run.parent / "looks.jsonl").write_text("")
    assert "look 1 of round 0 does not stand in" in wrong(run)["looks"]


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    """Scorecard row 7: what was published is finite, and a check can say so later."""
    folder = small.prepared(tmp_path / "run")

    def make(out: Path) -> dict[str, str]:
        save_file({"a": np.ones(2), "b": np.array([1.0, np.nan])}, out / "model.safetensors")
        return {"kind_folder": ""}

    with Store(folder) as store:
        store.unit("candidate", 0, "round-000/candidate", make)
    assert "model.safetensors: b is not finite" in wrong(folder)["weights"]


@pytest.mark.parametrize("place", ["../../etc", "/etc", "a/../../b"])
def test_a_chain_that_names_a_place_outside_is_refused(run: Path, place: str) -> None:
    """Scorecard row 19: ids and places from a record lead nowhere else."""

    def forge(entry: dict) -> None:
        if entry["kind"] == "examples":
            entry["place"] = place

    remade(run, forge)
    assert "outside the run folder" in wrong(run)["chain"]


def test_a_run_that_has_only_begun_passes(tmp_path: Path) -> None:
    assert wrong(small.prepared(tmp_path / "run")) == {}


def test_a_rejected_run_and_one_without_examples_pass(tmp_path: Path) -> None:
    for name, override in (("rejected", "engine.learns=-0.5"), ("nothing", "engine.answers=false")):
        folder = small.prepared(tmp_path / name, override)
        loop.run(folder)
        assert wrong(folder) == {}, ledger.read_run(folder).outcome


def test_a_look_past_the_last_passes(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run")
    vault = loop.load_whole(ledger.read_run(folder).recipe).vault_digest
    for other in ("a", "b", "c"):
        append_line(tmp_path / "looks.jsonl", {"vault": vault, "candidate": other, "look": 1, "run": "r"})
    assert loop.run(folder).looks["look"] == 4
    assert wrong(folder) == {}


def test_the_command_prints_each_check_and_ends_with_seven(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from selftaught import cli

    assert mishaps.guarded(lambda: cli.verify.__wrapped__(str(run), json=True)) == 0
    assert all(c["ok"] for c in json.loads(capsys.readouterr().out))
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("seed: 5", "seed: 6"))
    assert mishaps.guarded(lambda: cli.verify.__wrapped__(str(run))) == 7
    assert "WRONG  recipe" in capsys.readouterr().out
