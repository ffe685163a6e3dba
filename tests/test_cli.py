"""The commands as a person types them: words in, words and exit codes out, never a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fake_runs import HOSTILE, make_run, recipe
from selftaught import __version__, cli, mishaps
from selftaught.config import to_yaml
from selftaught.errors import IntegrityError, RecipeError, RunLocked, Stopped

COMMAND = (sys.executable, "-c", "from selftaught.cli import main; main()")
HEAVY = ("torch", "transformers", "pydantic", "yaml", "numpy", "pyarrow", "rich")


def type_in(*words: str, runs: Path | None = None) -> Result:
    return CliRunner().invoke(
        cli.app, list(words), env={"SELFTAUGHT_RUNS": str(runs) if runs else "", "COLUMNS": "200"}
    )


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env={**os.environ, **environment})


# ---------------------------------------------------------------- help and usage


def test_help_answers_in_half_a_second() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        answer = shell("--help")
        times.append(time.perf_counter() - began)
        assert answer.returncode == 0 and "resume" in answer.stdout
    assert min(times) < 0.5


def test_the_command_imports_nothing_heavy_before_it_is_needed() -> None:
    answer = subprocess.run([sys.executable, "-c", "import selftaught, selftaught.cli, sys; print(*sys.modules)"],
                            capture_output=True, text=True, check=True)  # fmt: skip
    assert not set(HEAVY) & set(answer.stdout.split())


def test_help_fits_one_screen() -> None:
    for words in ([], ["run"], ["init"], ["ask"]):
        lines = type_in(*words, "--help").stdout.splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 200


def test_the_version_is_the_packages() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in project
    assert type_in("--version").stdout == f"selftaught {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("rnu", "run"), ("recipe", "recipes"), ("reprot", "report")])
def test_an_unknown_command_is_a_usage_error_with_a_guess(typed: str, meant: str) -> None:
    answer = type_in(typed)
    assert answer.exit_code == 2 and f"'{meant}'" in answer.stderr


def test_an_unknown_option_is_a_usage_error_with_a_guess() -> None:
    answer = type_in("run", "--dryrun")
    assert answer.exit_code == 2 and "--dry-run" in answer.stderr


# ---------------------------------------------------------------- recipes


def test_recipes_are_listed_with_their_first_line() -> None:
    listed = type_in("recipes").stdout
    assert re.search(r"^self_consistency +Self-consistency \(LMSI\)", listed, re.M)
    assert re.search(r"^selfedit +Self-edits \(SEAL\)", listed, re.M)
    found = {r["name"]: Path(r["path"]) for r in json.loads(type_in("recipes", "--json").stdout)}
    assert {"self_consistency", "selfedit", "continued_pretraining", "hub/squad"} <= set(found)
    assert all(path.is_file() for path in found.values())


def test_a_mistyped_recipe_names_the_right_one() -> None:
    answer = type_in("run", "self_consistensy.yaml")
    assert answer.exit_code == RecipeError.exit_code
    assert answer.stderr.startswith(
        "error: There is no recipe 'self_consistensy.yaml'; did you mean 'self_consistency'?"
    )


def test_a_mistyped_key_names_the_right_one(tmp_path: Path) -> None:
    answer = type_in("run", "train.epoch=3", runs=tmp_path / "runs")
    assert answer.exit_code == RecipeError.exit_code
    assert "unknown key 'train.epoch'; did you mean 'epochs'?" in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_a_file_of_questions_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "1+1"}\n')
    answer = type_in("run", str(tmp_path / "questions.jsonl"))
    assert answer.exit_code == 2 and f"selftaught init {tmp_path / 'questions.jsonl'}" in answer.stderr


def test_words_are_a_recipe_and_overrides_in_any_order() -> None:
    assert cli.split_words([]) == ("self_consistency", [])
    assert cli.split_words(["seed=1", "mine.yaml", "name=x"]) == ("mine.yaml", ["seed=1", "name=x"])
    assert cli.split_words(["a", "b"]) == ("a", ["b"])


# ---------------------------------------------------------------- runs and show


def test_no_runs_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(type_in("runs", "--json", runs=tmp_path).stdout) == []
    assert "Start one with: selftaught run" in type_in("runs", runs=tmp_path).stdout


def test_runs_are_listed_newest_last(tmp_path: Path) -> None:
    make_run(tmp_path, "fake-1")
    os.utime(tmp_path / "fake-1" / "recipe.yaml", (1, 1))
    make_run(tmp_path, "fake-2", items=10, before=4, after=5)
    first, second = json.loads(type_in("runs", "--json", runs=tmp_path).stdout)
    assert (first["name"], first["outcome"], first["recipe"]) == ("fake-1", "accepted", "fake")
    assert first["path"] == str((tmp_path / "fake-1").resolve())
    assert first["labels"] == {"training": False, "selection": False, "gate": True}
    assert first["gain"] == {"dev": 0.5} and (second["name"], second["outcome"]) == ("fake-2", "unproven")
    lines = type_in("runs", runs=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["fake-1", "fake-2"]


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    make_run(tmp_path, "fake-1")
    damaged = make_run(tmp_path, "fake-2") / "chain.jsonl"
    damaged.write_text(damaged.read_text().replace('"sampled":1200', '"sampled":1201'))
    answer = type_in("runs", "--json", runs=tmp_path)
    assert [r["name"] for r in json.loads(answer.stdout)] == ["fake-1"]
    assert "fake-2 cannot be read" in answer.stderr and "does not hold together" in answer.stderr
    assert type_in("show", "fake-2", runs=tmp_path).exit_code == IntegrityError.exit_code


def test_show_says_what_happened_and_what_to_type(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    answer = type_in("show", runs=tmp_path)
    assert answer.exit_code == 0
    for words in ("fake-1: accepted", "40.0 % [30.9, 49.8]", "90.0 % [82.6, 94.5]", "+50.0 points [+40.4, +59.6]",
                  "50 won, 0 lost of 100", "1,200", "Labels were used for: gate.", "dev 40+1",
                  str(folder / "round-000" / "candidate" / "adapter"), "selftaught report fake-1"):  # fmt: skip
        assert words in answer.stdout


def test_a_models_text_cannot_touch_the_terminal(tmp_path: Path) -> None:
    make_run(tmp_path)
    shown = type_in("show", runs=tmp_path).stdout
    assert "[bold]␛[31m wrong" in shown and HOSTILE not in shown and "\x1b" not in shown


def test_show_as_json(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    shown = json.loads(type_in("show", "fake-1", "--json", runs=tmp_path).stdout)
    assert shown["outcome"] == "accepted" and shown["exit_code"] == 0 and shown["rules"][0]["passed"] is True
    assert shown["suites"]["dev"]["gain"]["value"] == 0.5 and shown["kept"].startswith(str(folder.resolve()))
    assert len(shown["pairs"]) == 3 and shown["pairs"][0]["after"] == shown["pairs"][0]["answer"] == "41"


def test_a_run_elsewhere_is_named_by_its_path(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    shown = type_in("show", "fake-1", "--runs", str(tmp_path)).stdout
    assert f"selftaught report {folder}" in shown


def test_a_run_before_its_decision_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "fake-1").mkdir()
    (tmp_path / "fake-1" / "recipe.yaml").write_text(to_yaml(recipe()))
    shown = type_in("show", runs=tmp_path).stdout
    assert "fake-1: stopped (it has not come to a decision yet" in shown and "selftaught resume fake-1" in shown


def test_an_unknown_run_names_the_known_ones(tmp_path: Path) -> None:
    make_run(tmp_path)
    answer = type_in("show", "fake-7", runs=tmp_path)
    assert answer.exit_code == 2 and "No run called 'fake-7'" in answer.stderr and "fake-1" in answer.stderr
    assert "There is no run" in type_in("resume", runs=tmp_path / "empty").stderr


# ---------------------------------------------------------------- whole runs, with the scripted engine

SMALL = ("engine.name=scripted", "model=scripted:0.6", "tasks.train=120", "tasks.dev=200", "tasks.vault=300",
         "tasks.guard=300", "method.samples=9", "train.replay_samples=40")  # fmt: skip


def test_a_run_that_gets_better_ends_with_0_and_its_proof(tmp_path: Path) -> None:
    answer = type_in("run", *SMALL, "name=mine", runs=tmp_path)
    assert answer.exit_code == 0, answer.stderr
    for words in (f"run {tmp_path / 'mine-1'}", "[sample] 120 questions", "mine-1: proved", "went the other way)",
                  'selftaught ask mine-1 "'):  # fmt: skip
        assert words in answer.stdout
    assert (tmp_path / "mine-1" / "chain.jsonl").is_file()


def test_json_is_alone_on_stdout(tmp_path: Path) -> None:
    answer = type_in("run", *SMALL, "--json", runs=tmp_path)
    assert json.loads(answer.stdout)["outcome"] == "proved" and "[sample]" in answer.stderr
    quiet = type_in("run", *SMALL, "--quiet", runs=tmp_path)
    assert quiet.stdout.startswith("self_consistency-2: proved (") and quiet.stdout.count("\n") == 1


@pytest.mark.parametrize(("change", "code", "outcome"), [
    ("engine.learns=-0.5", 5, "rejected"), ("engine.diverges=true", 5, "rejected"),
    ("engine.answers=false", 9, "nothing to train on"), ("tasks.dev=8", 8, "unproven"),
])  # fmt: skip
def test_the_exit_code_says_what_came_of_it(change: str, code: int, outcome: str, tmp_path: Path) -> None:
    answer = type_in("run", *SMALL, change, "--json", runs=tmp_path)
    found = json.loads(answer.stdout)
    assert (answer.exit_code, found["outcome"], found["exit_code"]) == (code, outcome, code)
    assert type_in("show", runs=tmp_path).exit_code == 0


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    answer = type_in("run", *SMALL, "--dry-run", runs=tmp_path / "runs")
    assert "name: self_consistency\nmodel: scripted:0.6\n" in answer.stdout and "train: 120 questions" in answer.stdout
    assert "dev: 200 labelled items → smallest provable gain " in answer.stdout
    assert not (tmp_path / "runs").exists()
    plan = json.loads(type_in("run", *SMALL, "tasks.vault=0", "--dry-run", "--json").stdout)
    assert plan["provable"]["vault"] is None and plan["recipe"]["train"]["lr"] != "auto"


@pytest.mark.parametrize("change", ["method.sampels=3", "engine.name=scriptd", "model=nope", "tasks.trian=3"])
def test_a_mistake_leaves_no_run_behind(change: str, tmp_path: Path) -> None:
    answer = type_in("run", *SMALL, change, runs=tmp_path)
    assert answer.exit_code == 2 and answer.stderr.startswith("error: ") and list(tmp_path.iterdir()) == []


def test_ask_shows_both_answers(tmp_path: Path) -> None:
    type_in("run", *SMALL, runs=tmp_path)
    plain = type_in("ask", "latest", "17+25+40+8", runs=tmp_path).stdout
    assert plain.startswith("before:\n17+25+40+8=") and "\n\nafter:\n17+25+40+8=" in plain
    found = json.loads(type_in("ask", "latest", "17+25+40+8", "--json", runs=tmp_path).stdout)
    assert set(found) == {"question", "before", "after"} and "####" in found["after"]


def test_resuming_a_finished_run_says_what_it_said(tmp_path: Path) -> None:
    first = json.loads(type_in("run", *SMALL, "--json", runs=tmp_path).stdout)
    again = type_in("resume", "--json", runs=tmp_path)
    assert json.loads(again.stdout) == first and again.exit_code == 0


def test_a_report_is_written_where_it_says(tmp_path: Path) -> None:
    type_in("run", *SMALL, runs=tmp_path)
    path = Path(type_in("report", runs=tmp_path).stdout.strip())
    assert path == tmp_path / "self_consistency-1" / "report.html" and path.stat().st_size > 1000


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ("run", *SMALL, "tasks.train=600", "method.samples=32", "name=slow")
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "SELFTAUGHT_RUNS": str(tmp_path)}) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        while "samples each" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 4 and "Traceback" not in said
    assert "stopping, within 10 seconds" in said and "Go on with: selftaught resume slow-1" in said
    assert "slow-1: stopped" in type_in("show", "slow-1", runs=tmp_path).stdout
    assert '"hard"' not in (tmp_path / "slow-1" / "journal.jsonl").read_text(), "no watchdog had to end it"
    assert type_in("resume", "--quiet", runs=tmp_path).stdout.startswith("slow-1: proved")


# ---------------------------------------------------------------- init


def test_init_writes_a_recipe_even_where_the_model_is_missing(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{i}+1", **({"answer": str(i + 1)} if i % 2 else {})}) for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows) + "\n")
    words = ("init", str(tmp_path / "mine.jsonl"), "--model", str(tmp_path / "no"), "--out", str(tmp_path / "r.yaml"))
    answer = type_in(*words)
    assert answer.exit_code == 0 and f"selftaught run {tmp_path / 'r.yaml'} --dry-run" in answer.stdout
    assert "60 rows of JSON lines: 30 × question, 30 × question + answer" in answer.stdout
    assert f"The model folder {tmp_path / 'no'} does not exist." in answer.stdout
    again = type_in(*words)
    assert again.exit_code == 2 and "--force" in again.stderr
    assert json.loads(type_in(*words, "--force", "--json").stdout)["findings"]["checker"] == "number"


# ---------------------------------------------------------------- errors, signals, pipes


@pytest.mark.parametrize(("error", "code"), [(RunLocked("in use"), 6), (IntegrityError("bad"), 7), (Stopped(), 4),
                                             (KeyboardInterrupt(), 4), (BrokenPipeError(), 1)])  # fmt: skip
def test_what_ends_a_command_decides_its_exit_code(error: BaseException, code: int) -> None:
    script = ("import pickle, sys\nfrom selftaught.mishaps import guarded\n"
              f"def body(): raise pickle.loads({_pickled(error)!r})\nsys.exit(guarded(body))")  # fmt: skip
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == code and "Traceback" not in answer.stderr


def _pickled(error: BaseException) -> bytes:
    import pickle

    return pickle.dumps(error)


def test_what_nobody_foresaw_is_one_line_and_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise ZeroDivisionError("division by zero")

    assert mishaps.guarded(body) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: ZeroDivisionError: division by zero"
    saved = Path(second.removeprefix("  The traceback is in "))
    assert saved.name.startswith("selftaught-error-") and "ZeroDivisionError" in saved.read_text()
    saved.unlink()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    make_run(tmp_path)
    with subprocess.Popen([*COMMAND, "show", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "SELFTAUGHT_RUNS": str(tmp_path)}) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_screen_that_knows_ascii_only_is_served(tmp_path: Path) -> None:
    make_run(tmp_path)
    answer = shell("show", SELFTAUGHT_RUNS=str(tmp_path), PYTHONIOENCODING="ascii")
    assert answer.returncode == 0 and "accepted" in answer.stdout


INTERRUPTED = """
import sys, time
from selftaught.live import interrupts
with interrupts(lambda: print("asked", flush=True)) as stop:
    print("ready", flush=True)
    while not stop(): time.sleep(0.01)
    try:
        print("stopped", flush=True)
        while len(sys.argv) > 1: time.sleep(0.01)
    except KeyboardInterrupt: print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, "twice"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n" and process.stdout.readline() == "stopped\n"
        process.send_signal(number)
        assert process.stdout.readline() == "interrupted\n"
