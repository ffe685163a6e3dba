"""Records outlive the program that wrote them: every past format is read, a later one refused, none misread. F20.

tests/data holds a finished run of each format; tests/data/make.py wrote them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import small
from selftaught import api, cli, ledger, loop, mishaps
from selftaught.config import read_recipe
from selftaught.errors import IntegrityError, RunError, Stopped
from selftaught.store import FORMAT, Store, format_of, read_chain
from selftaught.types import VERSION

DATA = Path(__file__).parent / "data"
FORMATS = range(1, FORMAT + 1)


def copied(tmp_path: Path, number: int) -> Path:
    shutil.copytree(DATA / f"format-{number}", tmp_path / "runs")
    return tmp_path / "runs" / "one"


def cut(folder: Path, entries: int) -> Path:
    """The run as it was when its chain had so many entries."""
    chain = (folder / "chain.jsonl").read_text().splitlines(keepends=True)[:entries]
    heads = {"0" * 64, *(json.loads(line)["hash"] for line in chain)}
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    (folder / "chain.jsonl").write_text("".join(chain))
    (folder / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in journal if e["head"] in heads))
    return folder


def edited(folder: Path, old: str, new: str, name: str = "chain.jsonl") -> Path:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize("number", FORMATS)
def test_a_run_of_every_format_is_still_read(tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path, number)
    before = small.bytes_of(folder)
    assert format_of(read_chain(folder)) == number
    assert mishaps.guarded(lambda: cli.show.__wrapped__(str(folder))) == 0
    shown = capsys.readouterr().out
    assert "one: proved" in shown and "gain on vault" in shown
    assert [c for c in api.verify(folder) if not c.ok] == []
    assert "proved" in api.write_report(folder).read_text()
    assert api.resume(folder).outcome == "proved", "there is nothing left to do"
    assert (api.export_model(folder, tmp_path / "model") / "scripted.json").exists()
    (folder / "report.html").unlink()
    assert small.bytes_of(folder) == before


@pytest.mark.parametrize("number", FORMATS)
def test_an_unfinished_run_ends_as_it_would_have_or_is_refused_by_name(tmp_path: Path, number: int) -> None:
    """Never a silent re-interpretation. A recipe that this version settles in another way is refused by name too."""
    folder = cut(copied(tmp_path, number), 4)
    assert ledger.read_run(folder).outcome == "stopped"
    began = (folder / "chain.jsonl").read_bytes()
    try:
        loop.run(folder)
    except (RunError, IntegrityError) as refused:
        said = f"format {number}, begun by" if number < FORMAT else "began with another recipe"
        assert said in refused.message
        assert (folder / "chain.jsonl").read_bytes() == began
    else:
        whole = read_chain(DATA / f"format-{number}" / "one")
        named = [[(e["unit"], e.get("facts"), e.get("round")) for e in chain] for chain in (read_chain(folder), whole)]
        assert number == FORMAT and named[0] == named[1]


def test_a_run_of_an_earlier_format_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = cut(copied(tmp_path, 1), 3)
    with pytest.raises(RunError) as refused:
        loop.run(folder)
    assert "is a record of format 1, begun by an earlier selftaught; " in refused.value.message
    assert f"this is selftaught {VERSION}, which goes on with format {FORMAT} only" in refused.value.message
    assert "install the version that began it; or start a new run" in refused.value.hint
    assert not ledger.is_locked(folder)


def test_a_record_of_a_format_to_come_is_refused_with_what_to_install(tmp_path: Path) -> None:
    folder = edited(copied(tmp_path, FORMAT), f'"format":{FORMAT}', f'"format":{FORMAT + 1}')
    edited(folder, f'"selftaught":"{VERSION}"', '"selftaught":"9.1.0"', "journal.jsonl")
    for use in (api.show, api.verify, api.resume, api.write_report, Store):
        with pytest.raises(RunError) as refused:
            use(folder)
        assert f"is a record of format {FORMAT + 1}, begun by selftaught 9.1.0; " in refused.value.message
        assert f"this is selftaught {VERSION}, which reads up to format {FORMAT}" in refused.value.message
        assert refused.value.hint == "Install that version or a later one: pip install 'selftaught>=9.1.0'"
    (folder / "journal.jsonl").unlink()
    with pytest.raises(RunError, match=r"begun by a later selftaught.*\n.*Install a later version\."):
        api.show(folder)
    assert ledger.read_runs(folder.parent) == [], "it hides no other run"


def test_every_chain_says_its_format_and_only_once(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "run", "tasks.train=5")
    loop.run(folder)
    assert [e.get("format") for e in read_chain(folder)] == [FORMAT, *[None] * (len(read_chain(folder)) - 1)]


def test_another_version_of_the_same_format_goes_on_and_says_so(tmp_path: Path) -> None:
    whole, folder = small.prepared(tmp_path / "a" / "run"), small.prepared(tmp_path / "b" / "run")
    loop.run(whole)
    with pytest.raises(Stopped):
        loop.run(folder, stop=small.after(50))
    edited(folder, f'"selftaught":"{VERSION}"', '"selftaught":"0.0.9"', "journal.jsonl")
    loop.run(folder)
    attempts = [e for e in ledger.read_run(folder).journal if e["event"] in ("started", "resumed")]
    assert [(e["selftaught"], e.get("began_by")) for e in attempts] == [("0.0.9", None), (VERSION, "0.0.9")]
    assert small.bytes_of(folder) == small.bytes_of(whole)
    assert "began_by" not in (whole / "journal.jsonl").read_text()


def test_the_script_writes_no_past_format_anew() -> None:
    assert {p.name for p in DATA.glob("format-*")} == {f"format-{n}" for n in FORMATS}
    assert read_recipe(DATA / f"format-{FORMAT}" / "one" / "recipe.yaml").name == "small"
