"""The report says what the record says: numbers, reasons and texts, and nothing that a model wrote as markup."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from selftaught import api, panels, report, visible
from selftaught.config import GateConfig, Member, Recipe, to_yaml
from selftaught.errors import IntegrityError
from selftaught.gate import decide, prove
from selftaught.ledger import record as record_round
from selftaught.paired import paired_interval, wilson
from selftaught.rows import read_rows, write_rows
from selftaught.store import Store, append_line, write_file
from selftaught.types import (
    Decision,
    Example,
    Labels,
    Metric,
    Report,
    Rollout,
    Round,
    Task,
    Verdict,
    as_json,
    canonical,
    digest,
)

RECIPE = Recipe(method=Member(name="self_consistency"), tasks=Member(name="world_sums"))
HOSTILE = "<script>alert(1)</script> \u202e55\u202c zero\u200bwidth </div><img src=https://evil.example/x.png>"
START = 1_763_700_000.0  # 21 November 2025


# ---------------------------------------------------------------- a run, simulated but written by the real store


def question(rng: random.Random, split: str) -> Task:
    name, thing = rng.choice(["Ana", "Ben", "Chi", "Dov", "Eve"]), rng.choice(["marbles", "stamps", "apples", "cards"])
    a, b, c = rng.randint(10, 99), rng.randint(10, 99), rng.randint(2, 9)
    prompt = f"{name} has {a} {thing} and finds {b} more. {name} gives {c} away. How many {thing} are left?"
    return Task(({"role": "user", "content": prompt},), answer=str(a + b - c), checker="number", split=split)


def rationale(task: Task, rng: random.Random, skill: float) -> tuple[str, str | None]:
    a, b, c = (int(n) for n in re.findall(r"\d+", task.question))
    first = a + b if rng.random() < skill**0.5 else a + b + rng.choice([-10, 10, 1])
    last = first - c if rng.random() < skill**0.5 else first + c
    if rng.random() < 0.04:
        return f"Start with {a} and add {b}. {a} + {b} = {first}. {first} + {b} =", None
    steps = f"Start with {a} and add {b}.\n{a} + {b} = {first}.\nGive {c} away: {first} - {c} = {last}."
    return f"{steps}\nThe answer is {last}.", str(last)


def answer(task: Task, index: int, author: str, rng: random.Random, skill: float) -> Rollout:
    text, parsed = rationale(task, rng, skill)
    ids = tuple(text.encode())
    return Rollout(task.id, index, author, "tok", (1, 2), ids, (-0.5,) * len(ids), text, rng.getrandbits(40), parsed,
                   None if parsed else "truncated")  # fmt: skip


@dataclass
class Made:
    """A run folder being written, stage after stage, as the loop writes it."""

    folder: Path
    size: int = 30
    samples: int = 6
    recipe: Recipe = RECIPE
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    clock: float = START
    reports: dict[tuple[str, str], Report] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        write_file(self.folder / "recipe.yaml", to_yaml(self.recipe).encode())
        write_file(self.folder / "environment.json", canonical(
            {"selftaught": "0.1.0", "python": "3.11.9", "torch": "2.9.1", "parameters": 3_412_992, "dtype": "float32",
             "threads": 1, "processes": 2, "exact": True}) + b"\n")  # fmt: skip
        self.store = Store(self.folder)
        names = {"train": self.size, "dev": self.size, "vault": self.size, "copying": self.size}
        self.tasks = {n: [question(self.rng, n) for _ in range(k)] for n, k in names.items()}

    def tell(self, event: str, seconds: float = 0.0, **facts: Any) -> None:
        line = {"time": self.clock, "event": event, "pid": 1, "head": self.store.head, **facts}
        append_line(self.folder / "journal.jsonl", line)
        self.clock += seconds

    def prepare(self, splits: Sequence[str] = ("train", "dev", "vault", "copying")) -> None:
        def make(folder: Path) -> Mapping[str, Any]:
            for name in splits:
                write_rows(folder / f"{'guard-' if name == 'copying' else ''}{name}.parquet", Task, self.tasks[name])
            return {"counts": {n: len(self.tasks[n]) for n in splits if n != "copying"} | {"guard copying": self.size},
                    "notes": ["2 questions stood twice and were dropped"], "vault": digest("vault")}  # fmt: skip

        self.tell("started", 0.2)
        self.tell("stage", 1.4, stage="prepare")
        self.store.unit("tasks", "tasks", "tasks", make)

    def sample(self, chunk: int = 500) -> None:
        self.tell("stage", 93.0, stage="sample")
        self.rollouts = []
        for t in self.tasks["train"]:
            skill = self.rng.betavariate(2.2, 1.3)
            self.rollouts += [answer(t, i, "parent", self.rng, skill) for i in range(self.samples)]
        for number, start in enumerate(range(0, len(self.rollouts), chunk)):
            self._rollouts(number, self.rollouts[start : start + chunk])

    def _rollouts(self, number: int, rows: list[Rollout]) -> None:
        def make(folder: Path) -> Mapping[str, Any]:
            write_rows(folder / "rows.parquet", Rollout, rows)
            return {"samples": len(rows), "tokens": sum(len(r.completion_ids) for r in rows),
                    "truncated": sum(r.error == "truncated" for r in rows)}  # fmt: skip

        self.store.unit("rollouts", number, f"round-000/rollouts/{number:04d}", make)

    def curate(self, hostile: bool = False) -> None:
        self.tell("stage", 2.6, stage="curate")
        votes: dict[str, Counter[str]] = {}
        for r in self.rollouts:
            votes.setdefault(r.task_id, Counter())[r.answer or ""] += 1
        made = [Example((1, 2), r.completion_ids, r.text, r.task_id, source="self_consistency", parents=(r.id,))
                for r in self.rollouts if r.answer and r.answer == votes[r.task_id].most_common(1)[0][0]]  # fmt: skip
        if hostile:
            made[0] = replace(made[0], text=HOSTILE)
        names = ["overlap", "repetition", "length"]
        refused = {e.id: names[i % 3] for i, e in enumerate(made[5::29])}
        verdicts = [Verdict(e, f"filter:{n}", False, f"{n}: 0.71 is over the limit <b>") for e, n in refused.items()]
        kept, rejected = [e for e in made if e.id not in refused], [e for e in made if e.id in refused]
        replay = [Example((1,), (7, 8), "unprompted text", source="replay", parents=("x",))] * 9
        self.counts = {"samples": len(self.rollouts), "questions voted": len(votes), "made": len(made) + 9,
                       "samples with an answer": sum(r.answer is not None for r in self.rollouts), "no_majority": 3,
                       "kept": len(kept) + 9, "kept replay": 9, "rejected": len(rejected)}  # fmt: skip
        self._examples(kept + replay, rejected, verdicts)

    def _examples(self, kept: list[Example], rejected: list[Example], verdicts: list[Verdict]) -> None:
        def make(folder: Path) -> Mapping[str, Any]:
            write_rows(folder / "kept.parquet", Example, kept)
            write_rows(folder / "rejected.parquet", Example, rejected)
            write_rows(folder / "verdicts.parquet", Verdict, verdicts)
            return {"counts": self.counts}

        self.store.unit("examples", 0, "round-000/examples", make)

    def train(self, kind: str = "lora", steps: int = 160) -> None:
        self.tell("stage", 61.0, stage="train")
        losses = [0.31 + 0.5 * 0.97**i + self.rng.gauss(0, 0.03) for i in range(steps)]
        place = "model" if kind == "full" else "adapter"

        def make(folder: Path) -> Mapping[str, Any]:
            (folder / place).mkdir()
            (folder / place / "weights.safetensors").write_bytes(b"0")
            norms = [abs(x) ** 0.5 for x in losses]
            data = {"losses": losses, "grad_norms": norms, "tokens": 40 * steps, "steps": steps, "kind": kind}
            (folder / "train.json").write_bytes(canonical(data))
            return {"digest": digest("candidate"), "kind": kind, "kind_folder": place, "steps": steps,
                    "tokens": 40 * steps, "first_loss": losses[0], "last_loss": losses[-1]}  # fmt: skip

        self.store.unit("candidate", 0, "round-000/candidate", make)

    def evaluate(self, role: str, suite: str, skill: float) -> None:
        self.tell("stage", 7.7, stage="evaluate")
        tasks, rng = self.tasks[suite], random.Random(suite + role)
        rows = [answer(t, 0, role, rng, skill) for t in tasks]
        scores = tuple(float(r.answer == t.answer) for r, t in zip(rows, tasks, strict=True))
        mean, interval = sum(scores) / len(scores), wilson(sum(scores), len(scores))
        found = Report("evaluation", suite, digest(role), suite, {"accuracy": Metric(mean, len(scores), *interval)},
                       scores, tuple(t.id for t in tasks), (None,) * len(tasks))  # fmt: skip

        def make(folder: Path) -> Mapping[str, Any]:
            (folder / "report.json").write_bytes(canonical(as_json(found)))
            write_rows(folder / "rows.parquet", Rollout, rows)
            return {"role": role, "suite": suite, "accuracy": mean}

        self.reports[role, suite] = found
        self.store.unit("evaluation", [role, suite], f"round-000/evaluate/{role}-{suite}", make)

    def judge(self, before: float, after: float) -> None:
        """Dev and the guard, then the vault if they passed; then the record."""
        r, looks = self.reports, {}
        for suite, skills in (("dev", (before, after)), ("copying", (0.9, 0.995))):
            self.evaluate("parent", suite, skills[0])
            self.evaluate("candidate", suite, skills[1])
        self.tell("stage", 0.4, stage="gate")
        guards = {"copying": (r["parent", "copying"], r["candidate", "copying"], 0.03)}
        decision = decide(GateConfig(), (r["parent", "dev"], r["candidate", "dev"]), guards)
        if decision.outcome == "accepted":
            looks = {"look": 1, "of": 3}
            self.evaluate("parent", "vault", before)
            self.evaluate("candidate", "vault", after)
            decision = prove(decision, GateConfig(), r["parent", "vault"], r["candidate", "vault"], 1)
        self.record(decision, looks)

    def record(self, decision: Decision, looks: Mapping[str, int] = MappingProxyType({})) -> None:
        candidate = digest("candidate") if any(e["kind"] == "candidate" for e in self.store.chain) else None
        record_round(self.store, Round(0, digest("parent"), candidate, decision, self.counts,
                                       Labels(gate=bool(self.reports)), "self_consistency", dict(looks)))  # fmt: skip
        self.tell("stage", 0.1, stage="record")
        self.tell("finished", outcome=decision.outcome)


def full_run(folder: Path, size: int = 120, samples: int = 6, gain: float = 0.3, hostile: bool = False,
             kind: str = "lora") -> Made:  # fmt: skip
    run = Made(folder, size, samples)
    run.prepare()
    run.sample()
    run.curate(hostile)
    run.train(kind)
    run.judge(0.5, 0.5 + gain)
    return run


def page_of(run: Made) -> str:
    run.store.__exit__()
    return report.write_report(run.folder).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and text of a page; checks that what is opened is closed."""

    VOID = ("meta", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return full_run(tmp_path_factory.mktemp("runs") / "sums-1", hostile=True)


@pytest.fixture(scope="module")
def page(proved: Made) -> str:
    return page_of(proved)


# ---------------------------------------------------------------- a whole run


def test_the_headline_says_the_outcome_the_reason_and_the_labels(page: str) -> None:
    text = Page(page).text
    assert "Proved The trained model answers more questions right" in text
    assert "Why: the gain holds on vault questions that decided nothing before." in text
    assert "to train: none to select what is learned: none to judge the result: yes, of held-out questions" in text
    assert "21 November 2025, 04:40 UTC" in text


def test_every_suite_shows_before_after_and_the_paired_interval(proved: Made, page: str) -> None:
    for suite in ("dev", "vault", "copying"):
        before, after = (proved.reports[role, suite] for role in ("parent", "candidate"))
        wins = sum(b < a for b, a in zip(before.scores, after.scores, strict=True))
        losses = sum(b > a for b, a in zip(before.scores, after.scores, strict=True))
        low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in paired_interval(wins, losses, 120))
        m = before.metrics["accuracy"]
        assert f"{low} to {high}" in page
        assert f"{100 * m.value:.1f} {100 * m.low:.1f}–{100 * m.high:.1f}" in Page(page).text


def test_the_rules_of_the_gate_stand_with_their_detail(page: str) -> None:
    text = Page(page).text
    assert re.search(r"gain on dev [\d.]+ % [\d.]+ % ✓ passed \d+ won, \d+ lost of 120; exact McNemar p = ", text)
    assert "look 1 of 3 on this vault" in text and "a loss of 3 points or more has p = " in text


def test_kept_and_rejected_add_up_to_made(proved: Made, page: str) -> None:
    c = {k: f"{v:,}" for k, v in proved.counts.items()}
    assert f"{c['kept']} kept + {c['rejected']} rejected = {c['made']} made. ✓ nothing lost" in Page(page).text
    assert "3 no majority" in Page(page).text


def test_rejections_are_counted_by_filter_and_shown_with_their_reason(proved: Made, page: str) -> None:
    verdicts = read_rows(proved.folder / "round-000/examples/verdicts.parquet", Verdict)
    for name, count in Counter(v.by.removeprefix("filter:") for v in verdicts).items():
        assert f"{name} {count} {name}: 0.71 is over the limit <b>" in Page(page).text
    assert Page(page).tags.count("li") > 16


def test_single_samples_and_majorities_are_checked_against_the_answers(proved: Made) -> None:
    votes = report.count_votes(report.read_run(proved.folder), {t.id: t for t in proved.tasks["train"]})
    found = report.histogram(votes)
    assert found is not None and sum(map(sum, found["bins"])) == found["known"] == 120
    assert found["majority"] > found["single"] > 0.3


def test_pairs_come_from_the_vault_and_show_losses_too(page: str) -> None:
    text = Page(page).text
    said = re.search(r"Of 120 vault questions the candidate gained (\d+) and lost (\d+)", text)
    assert said and int(said[1]) > int(said[2]) > 0
    assert page.count('<article class="pair">') == 8
    assert text.count("✗ wrong") == text.count("✓ right") == 8


def test_cost_counts_tokens_samples_and_seconds(proved: Made, page: str) -> None:
    text = Page(page).text
    assert f"samples drawn {120 * 6:,}" in text and "tokens trained on 6,400 105 per second of train" in text
    assert "sample 1 min 33 s" in text and "evaluate 46 s" in text and "parameters 3,412,992" in text


def test_the_record_names_the_head_the_weights_and_the_way_to_load_them(proved: Made, page: str) -> None:
    text = Page(page).text
    assert proved.store.head in text
    assert f"AutoPeftModelForCausalLM.from_pretrained('{proved.folder}/round-000/candidate/adapter')" in text
    assert f"selftaught ask {proved.folder} '" in text and "batch_tokens: 4096" in text


def test_a_full_model_is_loaded_with_transformers_alone(tmp_path: Path) -> None:
    text = Page(page_of(full_run(tmp_path / "run", size=20, kind="full"))).text
    assert "AutoModelForCausalLM.from_pretrained" in text and "AutoPeftModel" not in text


# ---------------------------------------------------------------- what a model wrote is data


def test_markup_in_model_text_is_text(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;img src=https" in page
    assert not {"script", "img", "iframe", "object", "form"} & set(Page(page).tags)


def test_unseen_characters_are_spelled_out_in_a_box(page: str) -> None:
    assert '<i class="unseen">⟨U+202E⟩</i>55<i class="unseen">⟨U+202C⟩</i> zero<i class="unseen">⟨U+200B⟩</i>' in page
    assert not [c for c in page if visible.unseen(c)]


@pytest.mark.parametrize("c", "\u202e\u2066\u200b\u200d\ufeff\x00\x1b\r\u2028\ud800\ufe0f\U000e0041\u3164\xad\x85")
def test_what_leaves_no_ink_is_unseen(c: str) -> None:
    assert visible.unseen(c) and visible.spelled(f"a{c}b") == f"a⟨U+{ord(c):04X}⟩b"


@pytest.mark.parametrize("c", ["a", " ", "\n", "\t", "\u00a0", "é", "ב", "中", "🙂", "⟨"])
def test_ordinary_characters_stay(c: str) -> None:
    assert visible.spelled(c) == visible.written(c) == c


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    loads = ("src", "href", "action", "xlink:href", "data", "poster", "srcset")
    linked = [v for k, v in Page(page).attributes if k in loads]
    assert linked and all(v.startswith("#") or v == "data:," for v in linked)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert not [k for k, _ in Page(page).attributes if k.startswith("on")]


def test_names_from_outside_are_escaped_and_quoted(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a <b> $(x)", size=20)
    page = page_of(run)
    assert "a &lt;b&gt; $(x)" in page and "<b> $(x)" not in page
    assert f"selftaught ask '{run.folder}'" in Page(page).text or f"run '{run.folder}/recipe.yaml'" in Page(page).text


def test_drawings_have_a_title_and_a_description(page: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page, re.S)
    assert len(drawings) == 5
    for drawing in drawings:
        ids = re.search(r'role="img" aria-labelledby="(\S+) (\S+)"', drawing)
        assert ids and f'<title id="{ids[1]}">' in drawing and f'<desc id="{ids[2]}">' in drawing
    assert page.count("<th>") == 0
    ids_used = [v for k, v in Page(page).attributes if k == "id"]
    assert len(ids_used) == len(set(ids_used))


def test_questions_that_were_asked_in_another_form_are_recognised(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.prepare()
    trained = run.tasks["train"]
    run.tasks["train"] = [replace(t, form="cot") for t in trained]
    run.sample()
    run.curate()
    found = report.contents(report.read_run(run.folder))["wrote"]
    run.store.__exit__()
    assert found["histogram"]["known"] == 30 and all(task in trained for task, *_ in found["kept"])


@pytest.mark.parametrize("sampled", ["direct", "zero_shot_cot", "few_shot_cot"])
def test_a_run_of_the_loop_itself_is_reported(tmp_path: Path, sampled: str) -> None:
    settings = ["model=scripted:0.45", "engine.name=scripted", "tasks.train=40", "tasks.dev=200", "tasks.vault=200",
                "train.replay=0", f"method.sample_format={sampled}"]  # fmt: skip
    page = api.write_report(api.run("self_consistency", *settings, runs=tmp_path))
    text = Page(page.read_text(encoding="utf-8")).text
    assert re.search(r"(Proved|Accepted) The (trained model|gain)", text) and "✓ nothing lost" in text
    assert re.search(r"Of 200 vault questions the candidate gained \d+", text)
    assert "How far the samples agree, 40 questions" in text


# ---------------------------------------------------------------- less than a whole run


def test_the_same_record_gives_the_same_bytes(proved: Made) -> None:
    assert page_of(proved) == page_of(proved)


def test_a_rejected_run_says_so_and_keeps_the_parent(tmp_path: Path) -> None:
    text = Page(page_of(full_run(tmp_path / "run", size=400, gain=-0.2))).text
    assert "Rejected The trained model is not kept. Its parent stands, untouched." in text
    assert "Why: did not pass: gain on dev" in text and "✗ failed" in text and "To look at the rejected" in text
    assert "Of 400 dev questions the candidate gained" in text and "This was look" not in text


def test_few_questions_end_unproven(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run", size=30, gain=-0.3)
    reason = "30 labelled dev questions are too few"
    with run.store:
        run.record(Decision("unproven", (), reason))
    text = Page(page_of(run)).text
    assert "Unproven There is too little labelled data to know." in text and f"Why: {reason}." in text


def test_training_that_left_the_numbers_has_no_candidate(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.prepare()
    run.sample()
    run.curate()
    run.record(Decision("rejected", (), "the loss became NaN at step 3"))
    text = Page(page_of(run)).text
    assert "Why: the loss became NaN at step 3." in text and "Training left no candidate behind." in text
    assert "there was no candidate to compare" in text and "selftaught run" in text


def test_no_labels_no_comparison(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.prepare(["train"])
    run.sample()
    run.curate()
    run.train()
    run.record(Decision("unproven", (), "no labelled questions: nothing can show a gain"))
    text = Page(page_of(run)).text
    assert "Unproven" in text and "there are no labelled held-out questions, so no gain could be shown" in text
    assert "No rule was applied: no labelled questions" in text and "to judge the result: none" in text


def test_nothing_to_train_on(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.prepare()
    run.sample()
    run.counts = {"samples": 180, "made": 0, "kept": 0, "rejected": 0, "questions without a majority": 30}
    run._examples([], [], [])
    run.record(Decision("nothing to train on", (), "no question had a majority"))
    text = Page(page_of(run)).text
    assert "Nothing to train on" in text and "Why: no question had a majority." in text
    assert "0 kept + 0 rejected = 0 made. ✓ nothing lost" in text and "30 questions without a majority" in text
    assert "Nothing was trained." in text and "Weights" not in text


def test_counts_that_do_not_add_up_are_told(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.counts = {"made": 10, "kept": 5, "rejected": 4}
    run._examples([], [], [])
    assert "5 kept + 4 rejected = 9, but 10 were made. ✗ does not add up" in Page(page_of(run)).text


@pytest.mark.parametrize(("event", "words"), [
    ({"event": "stopped"}, "How it stands: stopped by request, in the stage “sample”."),
    ({"event": "broken", "error": "disk <full>"}, "broke with an error, in the stage “sample”. disk <full>"),
    (None, "ended without a word (killed, or a power cut), in the stage “sample”."),
])  # fmt: skip
def test_an_unfinished_run_shows_how_far_it_came(tmp_path: Path, event: dict[str, str] | None, words: str) -> None:
    run = Made(tmp_path / "run")
    run.prepare()
    run.sample()
    if event:
        run.tell(**event)  # type: ignore[arg-type]
    text = Page(page_of(run)).text
    assert "Unfinished" in text and words in text and f"selftaught resume {run.folder}" in text
    assert "How far the samples agree, 30 questions so far" in text and "The gate has not been asked yet." in text


def test_a_run_that_holds_its_lock_is_still_working(tmp_path: Path) -> None:
    run = Made(tmp_path / "run")
    run.prepare()
    with run.store:
        text = Page(report.write_report(run.folder).read_text(encoding="utf-8")).text
    assert "still working, in the stage “prepare”" in text


def test_an_empty_folder_with_a_recipe_is_a_page_too(tmp_path: Path) -> None:
    write_file(tmp_path / "run" / "recipe.yaml", to_yaml(RECIPE).encode())
    text = Page(report.write_report(tmp_path / "run").read_text(encoding="utf-8")).text
    assert "Unfinished" in text and "No samples yet." in text and "0" * 64 in text


def test_files_that_were_removed_are_missed_but_not_fatal(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run", size=20)
    for path in run.folder.rglob("*.parquet"):
        path.unlink()
    (run.folder / "environment.json").unlink()
    (run.folder / "round-000/candidate/train.json").unlink()
    text = Page(page_of(run)).text
    assert "The record of the training is not here." in text and "There are no two sets of answers" in text


def test_a_file_that_was_edited_is_not_quoted(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run", size=20)
    path = run.folder / "round-000/evaluate/candidate-dev/report.json"
    run.store.__exit__()
    path.write_text(path.read_text().replace("0.0", "1.0"))
    with pytest.raises(IntegrityError, match=r"candidate-dev/report\.json is not what was recorded"):
        report.write_report(run.folder)


# ---------------------------------------------------------------- parts


def test_seconds_of_a_stage_add_up_over_attempts_and_leave_pauses_out() -> None:
    stopped = [("started", 0), ("stage:sample", 1), ("stopped", 11)]
    killed = [("resumed", 500), ("stage:sample", 501), ("chunk", 521)]
    journal = [*stopped, *killed, ("resumed", 900), ("stage:sample", 900), ("stage:train", 930), ("finished", 990)]
    events = [{"time": t, "event": e.split(":")[0], "stage": e.split(":")[-1]} for e, t in journal]
    assert report.stage_seconds(events) == ({"sample": 10 + 20 + 30, "train": 60}, 3)


def test_choices_are_even_and_give_rare_kinds_a_turn() -> None:
    assert report.spread(range(100), 4) == [0, 25, 50, 75] and report.spread([], 4) == []
    chosen = report.in_turns(["a"] * 50 + ["b"], lambda x: x)
    assert len(chosen) == 8 and chosen[1] == "b"


@pytest.mark.parametrize(("low", "high", "ticks"), [
    (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)), (-0.031, 0.18, (-0.05, 0.0, 0.05, 0.1, 0.15, 0.2)),
    (0, 830, (0, 200, 400, 600, 800, 1000)),
])  # fmt: skip
def test_axes_have_round_ticks(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert panels.axis(low, high).ticks == pytest.approx(ticks)
    assert panels.axis(3.0, 3.0).low < 3.0 < panels.axis(3.0, 3.0).high


def test_a_curve_of_any_length_is_drawn_and_gaps_are_left_out() -> None:
    long = report.curve([1.0, None, *[0.5] * 5000, float("nan")])
    assert long is not None and len(long["points"]) == len(long["smooth"]) == 300 and long["steps"] == 5001
    assert report.curve([0.5]) is None


def test_scores_that_are_not_0_or_1_have_the_interval_of_a_mean() -> None:
    before = Report("evaluation", "dev", "p", "dev", {}, (0.2, 0.4), ("a", "b"), (None, None))
    after = replace(before, scores=(0.4, 0.5))
    (row,) = panels.compare({("parent", "dev"): before, ("candidate", "dev"): after}, ())
    assert row.gain == pytest.approx(0.15) and row.low < 0 < row.gain < row.high, "two questions know little"
    assert json.dumps(row.wins) == "2"
