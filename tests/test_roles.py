"""Runs in which another model writes what is learned: behind a server that is scripted, or local."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import small
import tiny
from selftaught import export, integrity, ledger, loop, report, stopping, summary
from selftaught.bench import RunBench
from selftaught.config import to_yaml
from selftaught.engines._chat import Ask
from selftaught.engines.scripted import Scripted
from selftaught.errors import EndpointError, IntegrityError, ModelError, RecipeError, Stopped
from selftaught.ledger import RunRecord, read_run
from selftaught.roles import TOO_LONG, open_roles, retokenised
from selftaught.rows import read_rows
from selftaught.store import Store, read_lines, write_file
from selftaught.types import Rollout, Sampling, Task
from selftaught.view import Silent
from serving import FakeServer, serving

KEY = "sk-very-secret"


def overrides(server: FakeServer, *more: str) -> tuple[str, ...]:
    terms = {"url": server.url, "model": "big", "backoff": 0.01, "deadline": 5}
    return (*(f"roles.source.{k}={v}" for k, v in terms.items()), *more)


def run(folder: Path, *more: str) -> RunRecord:
    loop.run(small.prepared(folder, *more))
    return read_run(folder)


def rollouts(record: RunRecord) -> list[Rollout]:
    return [r for e in record.units("rollouts") if "source" in e["facts"]
            for r in read_rows(record.path / e["place"] / "rows.parquet", Rollout)]  # fmt: skip


def alike(record: RunRecord) -> list[int]:
    """Of each question, the samples that say what an earlier one says."""
    texts: dict[str, list[str]] = {}
    for row in rollouts(record):
        texts.setdefault(row.task_id, []).append(row.text)
    return [len(said) - len(set(said)) for said in texts.values()]


def whole(folder: Path) -> dict[str, str]:
    """All that a run leaves but when things came: see small.bytes_of."""
    return {k: v for k, v in small.bytes_of(folder).items() if k != "replies.jsonl"}


# ---------------------------------------------------------------- a server as the source


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the record, the server) of a run that learned from a server that is better than the student."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    os.environ["BIG_KEY"] = KEY
    try:
        with serving(skill=0.95) as server:
            prices = ("roles.source.price_prompt=1000", "roles.source.price_completion=2000", "budget.money=100")
            yield run(folder, *overrides(server, "roles.source.key_env=BIG_KEY", *prices)), server
    finally:
        del os.environ["BIG_KEY"]


def test_the_student_learns_what_the_source_wrote(distilled: tuple[RunRecord, FakeServer]) -> None:
    record, server = distilled
    assert record.outcome == "proved" and all(c.ok for c in integrity.verify(record.path))
    assert len(server.asked) == server.answered == 40 * 8
    rows, author = rollouts(record), record.facts("tasks")["roles"]["source"]["digest"]
    assert len(rows) == 320 and {r.author for r in rows} == {author}
    tokens = Scripted(Scripted.Options()).tokens(None)  # type: ignore[arg-type]
    for row in rows:
        assert row.text.startswith(" ") and row.completion_ids == tokens.encode_completion(row.text)
        assert row.tokenizer == tokens.digest and tokens.decode(row.prompt_ids).endswith("\nA:")
    learned = [e for e in small.kept(record) if e.own]
    assert learned and {p for e in learned for p in e.parents} <= {r.id for r in rows}


def test_the_record_says_that_another_model_wrote(distilled: tuple[RunRecord, FakeServer], tmp_path: Path) -> None:
    record, server = distilled
    roles = record.facts("tasks")["roles"]
    assert roles["source"]["verifiable"] is False and len(roles["source"]["digest"]) == 64
    assert record.final is not None
    counts = record.final.counts
    assert {k: v for k, v in counts.items() if k.startswith("source")} == {
        "source: samples": 320, "source: re-tokenised": 320, "source: requests": 320,
        "source: prompt tokens": 3200, "source: completion tokens": 1600,
        "source: samples alike": sum(alike(record))}  # fmt: skip
    big = f"big at {server.url}"
    said = f"another model, {big}, writes what is learned from; what really answers there cannot be checked"
    shown = summary.plain(summary.blocks(record, record.path.parent))
    assert f"A{said[1:]}. Its tokens cost 6.4 by the prices of the recipe." in shown
    assert summary.as_json(record, record.path.parent)["roles"] == roles
    assert said in report.write_report(record.path).read_text()
    assert f"text that **another model** (`{big}`) wrote for it by the method" in export.card(record)
    assert f"Text that **another model** (`{big}`) wrote for it, by the method" in export.data_card(record)


def test_no_held_out_question_was_ever_sent(distilled: tuple[RunRecord, FakeServer]) -> None:
    record, server = distilled
    suites = {name: read_rows(record.path / "tasks" / f"{name}.parquet", Task)
              for name in ("train", "dev", "vault", "guard-sort")}  # fmt: skip
    questions = {name: {t.question for t in suite} for name, suite in suites.items()}
    assert set(server.prompts) == questions["train"]
    assert not set(server.prompts) & (questions["dev"] | questions["vault"] | questions["guard-sort"])


def test_no_key_gets_into_the_run(distilled: tuple[RunRecord, FakeServer]) -> None:
    record, server = distilled
    assert set(server.keys) == {f"Bearer {KEY}"}
    files = [p for p in record.path.rglob("*") if p.is_file()]
    assert len(files) > 20 and not [p for p in files if KEY.encode() in p.read_bytes()]


def test_replay_stays_the_student_s_own(distilled: tuple[RunRecord, FakeServer]) -> None:
    record, _ = distilled
    own = {r.id for e in record.units("rollouts") if "source" not in e["facts"]
           for r in read_rows(record.path / e["place"] / "rows.parquet", Rollout)}  # fmt: skip
    replayed = [e for e in small.kept(record) if e.source == "replay"]
    assert replayed and {p for e in replayed for p in e.parents} <= own


def test_exemplars_and_waves_are_the_source_s_too_and_questions_the_student_s(tmp_path: Path) -> None:
    with serving() as server:
        record = run(tmp_path / "run", *overrides(server), "method.sample_format=few_shot_cot", "method.early_stop=3",
                     "method.write_questions.count=20", "method.formats=[few_shot_cot, answer_only]")  # fmt: skip
    by = {e["place"]: "source" in e["facts"] for e in record.units("rollouts")}
    assert [by[f"round-000/rollouts/{i:02d}-000"] for i in range(4)] == [True, False, True, True]
    assert len(server.asked[-1]["messages"]) > 1, "worked examples stand before the question, as turns"
    written = [m for b in server.asked for m in b["messages"] if m["role"] == "assistant"]
    assert written and record.outcome in ("accepted", "proved")


# ---------------------------------------------------------------- held out


def test_a_held_out_question_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    dev = small.sums(3, "dev", start=50)
    with serving() as server, Store(tmp_path / "run") as store:
        recipe, engine = small.recipe(*overrides(server)), Scripted(Scripted.Options())
        bench = RunBench(store, engine, engine.open("scripted:0.6"), small.tasks(small.sums(3), dev), 5, "round-000",
                         Silent(), lambda: False, open_roles(recipe, engine, store.folder))  # fmt: skip
        with pytest.raises(IntegrityError, match="held-out question"):
            bench.generate([*bench.tasks, dev[0]], Sampling(2, 0.8), role="source")
        with pytest.raises(ValueError, match="no role 'sauce'"):
            bench.generate(bench.tasks, Sampling(2, 0.8), role="sauce")
        assert server.asked == []
        bench.generate(bench.tasks, Sampling(2, 0.8), role="source")
        assert len(server.asked) == 6


# ---------------------------------------------------------------- stopped, killed, gone


def test_stopped_again_and_again_it_ends_the_same_and_asks_nothing_twice(tmp_path: Path) -> None:
    with serving(then="slow", skill=0.95) as server:
        once = run(tmp_path / "once" / "run", *overrides(server))
        asked, server.asked = server.asked, []
        folder = small.prepared(tmp_path / "pieces" / "run", *overrides(server))
        for piece in (60, 150, 250):
            with pytest.raises(Stopped):
                loop.run(folder, stop=lambda piece=piece: len(server.asked) >= piece)
            assert read_run(folder).outcome == "stopped"
        loop.run(folder)
    assert whole(folder) == whole(once.path)
    names = [json.dumps(body) for body in server.asked]
    assert sorted(set(names)) == sorted(json.dumps(body) for body in asked)
    assert len(names) - len(set(names)) <= 3 * 8, "only what was on its way when it was stopped"


KILLED = "import sys; from pathlib import Path; from selftaught import loop; loop.run(Path(sys.argv[1]))"


def test_killed_it_goes_on_without_repeating_a_request_that_was_answered(tmp_path: Path) -> None:
    with serving(then="slow", skill=0.95) as server:
        folder = small.prepared(tmp_path / "run", *overrides(server))
        known: set[str] = set()
        for requests in (60, 170, 300):
            child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
            while len(server.asked) < requests and child.poll() is None:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            time.sleep(0.2)  # what was on its way
            assert not known & {Ask(server.url, body).id for body in server.asked}
            known |= {line["ask"] for line in read_lines(folder / "replies.jsonl")}
            assert len(known) >= len(server.asked) - 3 * 8
            server.asked = [{}] * len(server.asked)  # seen
        loop.run(folder)
        last = [body for body in server.asked if body]
        assert len(last) == 320 - len(known) and not known & {Ask(server.url, body).id for body in last}
    record = read_run(folder)
    assert record.outcome == "proved" and all(c.ok for c in integrity.verify(folder))


def test_a_server_that_goes_away_pauses_the_run_and_when_it_is_back_the_rest_is_asked(tmp_path: Path) -> None:
    with serving(*["ok"] * 50, then="status 503") as server:
        folder = small.prepared(tmp_path / "run", *overrides(server, "roles.source.retries=1"))
        with pytest.raises(EndpointError, match="does not answer: 8 requests in a row failed"):
            loop.run(folder)
        assert read_run(folder).outcome == "paused" and ledger.EXIT_CODES["paused"] == EndpointError.exit_code
        failures = [e for e in read_run(folder).journal if e["event"] == "request failed"]
        assert failures and all("status 503" in e["detail"] for e in failures)
        time.sleep(0.2)  # what was on its way
        server.then, server.asked = "ok", []
        loop.run(folder)
        assert len(server.asked) == 320 - 50
    assert read_run(folder).outcome in ("accepted", "proved")


def test_a_run_that_waits_for_a_server_that_hangs_is_stopped_at_once(tmp_path: Path) -> None:
    with serving(*["ok"] * 30, then="hang") as server:
        folder = small.prepared(tmp_path / "run", *overrides(server, "roles.source.deadline=60"))

        def ask() -> None:
            while len(server.asked) < 38:
                time.sleep(0.02)
            stopping.ask(folder)

        threading.Thread(target=ask, daemon=True).start()
        with pytest.raises(Stopped):
            loop.run(folder)
        assert time.monotonic() - server.times[-1] < 3 and read_run(folder).outcome == "stopped"


def test_the_command_says_what_to_do_and_exits_as_paused(tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url
    recipe = small.recipe(f"roles.source.url={url}", "roles.source.model=big", "roles.source.retries=0")
    write_file(tmp_path / "recipe.yaml", to_yaml(recipe).encode())
    code = "from selftaught.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "run", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 3 and f"{url} does not answer: 8 requests in a row failed" in done.stderr
    assert "selftaught resume" in done.stderr and read_run(tmp_path / "small-1").outcome == "paused"


def test_samples_that_failed_are_rows_with_their_error_and_counted(tmp_path: Path) -> None:
    with serving(*["ok"] * 20, *["status 400"] * 5, *["length"] * 7, skill=0.95) as server:
        record = run(tmp_path / "run", *overrides(server, "roles.source.concurrency=1"))
    rows = rollouts(record)
    assert len(rows) == 320 and record.final is not None
    errors = [r.error for r in rows if r.error]
    counts = record.final.counts
    assert errors.count("truncated") == counts["samples failed: truncated"] == 7
    refused = [r for r in rows if r.error == "the server refused it"]
    assert len(refused) == counts["samples failed: the server refused it"] == 4 + 4 * 8, (
        "of each question all that follow"
    )
    assert not any(r.completion_ids or r.answer or r.text for r in refused) and all(r.prompt_ids for r in refused)


def test_money_that_is_spent_leaves_the_rest_unasked(tmp_path: Path) -> None:
    prices = ("roles.source.price_prompt=1000", "roles.source.price_completion=2000", "budget.money=3")
    with serving(skill=0.95) as server:
        record = run(tmp_path / "run", *overrides(server, *prices))
    assert record.final is not None
    left = record.final.counts["samples failed: budget.money was spent"]
    assert len(server.asked) + left == 320 and 100 < len(server.asked) <= 150


# ---------------------------------------------------------------- a vLLM that follows the student


def test_the_server_is_given_every_accepted_adapter(tmp_path: Path) -> None:
    with serving(skill=0.8) as server:
        more = ("train.kind=lora", "rounds=2", "patience=2", "roles.source.reload=true", "gate.min_gain=0.5")
        record = run(tmp_path / "run", *overrides(server, *more))
        accepted = [r for r in record.rounds if r.decision.outcome in ledger.GOOD]
        assert record.rounds[0] in accepted
    models = [body["model"] for body in server.asked]
    first, second = models[:320], models[320:]
    assert set(first) == {"big"} and len(set(second)) == 1 and second[0].startswith("selftaught-")
    loads = [body for path, body in server.calls if path == "/v1/load_lora_adapter"]
    assert loads == [
        {"lora_name": second[0], "lora_path": str((record.path / "round-000/candidate/adapter").absolute())}
    ]
    authors = [{r.author for r in read_rows(record.path / e["place"] / "rows.parquet", Rollout)}
               for e in record.units("rollouts") if "source" in e["facts"]]  # fmt: skip
    shown = summary.plain(summary.blocks(record, tmp_path))
    assert "The student itself, served as big at " in shown and "cannot be checked" in shown
    assert len(authors) == 2 and authors[0] != authors[1], "what the adapter wrote is not on record as the base's"


def test_an_adapter_that_cannot_be_loaded_pauses_the_run_between_two_rounds(tmp_path: Path) -> None:
    with serving(*["ok"] * 320, then="no lora", skill=0.8) as server:
        more = ("train.kind=lora", "rounds=2", "patience=2", "roles.source.reload=true")
        folder = small.prepared(tmp_path / "run", *overrides(server, *more))
        with pytest.raises(EndpointError, match="did not load the adapter"):
            loop.run(folder)
        assert len(read_run(folder).rounds) == 1 and read_run(folder).outcome == "paused"
        server.then = "ok"
        loop.run(folder)
        assert len(read_run(folder).rounds) == 2


# ---------------------------------------------------------------- a local model as the source


def test_a_local_source_writes_and_the_student_learns(tmp_path: Path) -> None:
    record = run(tmp_path / "run", "roles.source=scripted:0.95")
    engine = Scripted(Scripted.Options())
    assert {r.author for r in rollouts(record)} == {engine.open("scripted:0.95").digest}
    assert record.facts("tasks")["roles"] == {
        "source": {"digest": engine.open("scripted:0.95").digest, "verifiable": True}
    }
    assert record.final is not None and record.final.counts["source: samples"] == 320
    assert record.final.counts["source: re-tokenised"] == 0, "the same tokens after the same prompt"
    assert "Another model, scripted:0.95, writes" in summary.plain(summary.blocks(record, tmp_path))


def test_without_roles_nothing_on_record_says_so(tmp_path: Path) -> None:
    record = run(tmp_path / "run")
    assert record.final is not None
    assert "roles" not in record.facts("tasks") and not [k for k in record.final.counts if "source" in k]
    assert "nother model" not in summary.plain(summary.blocks(record, tmp_path))
    assert small.recipe().digest == small.recipe("roles.source=").digest


def test_another_model_s_text_is_put_into_the_student_s_tokens() -> None:
    tokens = Scripted(Scripted.Options(context=60)).tokens(None)  # type: ignore[arg-type]
    task = Task(({"role": "user", "content": "1+1"},))
    row = Rollout(task.id, 0, "other", "their tokens", (7,), (8, 9), (-0.1, -0.2), "\n1+1=2 ", 5, "2")
    cut, none, long = (replace(row, answer=None, error="truncated"), replace(row, text="", answer=None, error="lost"),
                       replace(row, text="x" * 60))  # fmt: skip
    same = replace(row, tokenizer=tokens.digest, prompt_ids=tokens.encode("Q: 1+1\nA:"))
    found, count = retokenised([row, cut, none, long, same], [task], tokens)
    moved = replace(row, tokenizer=tokens.digest, prompt_ids=same.prompt_ids, text=" 1+1=2", logprobs=(),
                    completion_ids=tokens.encode_completion(" 1+1=2"))  # fmt: skip
    assert count == 4 and found[0] == moved and found[4] is same
    assert found[1] == replace(moved, answer=None, error="truncated")
    assert found[2] == replace(moved, text="", completion_ids=(), answer=None, error="lost")
    assert (found[3].error, found[3].answer) == (TOO_LONG, None)


def test_a_local_source_with_another_vocabulary_and_template(tmp_path: Path) -> None:
    """Two random models: the second has its byte tokens in reverse, and no chat template."""
    student = tiny.checkpoint(tmp_path / "student")
    source = tiny.checkpoint(tmp_path / "source", chat=False, seed=1)
    kept = json.loads((source / "tokenizer.json").read_text())
    vocab = kept["model"]["vocab"]
    kept["model"]["vocab"] = {t: 263 - i if i > 3 else i for t, i in vocab.items()}
    (source / "tokenizer.json").write_text(json.dumps(kept))
    recipe = small.recipe(
        f"model={student}", f"roles.source={source}", "engine={name: torch_engine, processes: 1, threads: 1}"
    )
    engine = loop.make_engine(recipe)
    with Store(tmp_path / "run") as store:
        roles = open_roles(recipe, engine, store.folder)
        bench = RunBench(store, engine, engine.open(str(student)), small.tasks(small.sums(3)), 5, "round-000", Silent(),
                         lambda: False, roles)  # fmt: skip
        groups = bench.generate(bench.tasks, Sampling(4, 2.0, max_tokens=30), role="source")
    engine.close()
    assert roles["source"].tokens.digest != bench.tokens.digest and bench.counts["source: re-tokenised"] == 12
    theirs = roles["source"].tokens
    for task, rows in groups:
        for row in rows:
            assert row.author == roles["source"].checkpoint.digest and row.tokenizer == bench.tokens.digest
            assert row.prompt_ids == bench.tokens.encode(f"user: {task.question}\nassistant:")
            assert row.completion_ids == (bench.tokens.encode_completion(row.text) if row.text else ())
            assert row.prompt_ids != theirs.encode(theirs.render(task.prompt, task.form))
    assert sum(bool(r.text) for _, rows in groups for r in rows) > 6


# ---------------------------------------------------------------- what is refused


URL, PRICE = "roles.source.url=http://127.0.0.1:9/v1", "roles.source.price_prompt=1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("roles.judge=scripted:0.9",), "roles.judge is set, and self_consistency asks nobody in that role"),
        (("roles.source=5",), "roles.source: Value error, name a model, or give a server with url and model"),
        (("roles.sauce=scripted:0.9",), "unknown key 'roles.sauce'; did you mean 'source'"),
        ((URL, "roles.source.modle=big"), "unknown key 'modle'; did you mean 'model'"),
        ((URL,), "'model' is missing"),
        ((URL, "roles.source.model=big", "budget.minutes=5"), "budget.minutes is planned by the pace of the student"),
        ((URL, "roles.source.model=big", "budget.money=5"), "roles.source names no price"),
        (("roles.source=scripted:0.9", "budget.money=5"), "no role has one"),
        ((URL, "roles.source.model=big", "roles.source.reload=true", "train.kind=full"), "train.kind=full makes none"),
        ((URL, "roles.source.model=big", "roles.source.key_env=NOT_SET_HERE"), "NOT_SET_HERE is not set"),
        (("engine.name=endpoint", "engine.url=http://h/v1", "engine.model=m"), "engine.name=endpoint only generates"),
        (("roles.source=nowhere",), "'nowhere' is not a scripted model"),
    ],
)
def test_roles_that_cannot_be_are_refused_before_a_run(given: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises((RecipeError, ModelError)) as error:
        loop.prepare(small.recipe(*given), tmp_path / "run")
    assert said in str(error.value) and not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_recipe_with_a_server_is_read_back_as_it_was_written() -> None:
    recipe = small.recipe(URL, "roles.source.model=big", PRICE)
    assert small.parse_recipe(to_yaml(recipe), "again") == recipe
    assert recipe.digest != small.recipe().digest


def test_a_plan_says_who_writes(tmp_path: Path) -> None:
    with serving() as server:
        plan = loop.plan(small.recipe(*overrides(server, "rounds=2", "roles.source.price_completion=1000")))
    assert [n for n in plan.notes if n.startswith("roles.source: another model, big at http://127.0.0.1")]
    assert "roles.source: up to 640 samples of 61,440 tokens in all, for 61.44 and what the prompts cost" in plan.notes
    assert server.asked == [], "a plan asks no server"
