"""The scripted engine on passages: it reads, writes notes by its skill, learns what is stated, and forgets a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selftaught.engines.base import Request, TrialJob, Trialled, TuneJob
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import Stopped
from selftaught.types import Checkpoint, Example, Sampling

FACTS = {f"{what} of {name}": f"{what[0]}{name[-1]}" for what in ("home", "job", "age") for name in ("Ana B", "Jo C")}
STATED = {key: f"The {key} is {value}." for key, value in FACTS.items()}
PASSAGE = " ".join(STATED.values())
TOKENS = ByteTokens(4096)
WRITE = f"Passage: {PASSAGE}\nNotes:"


def example(completion: str, prompt: str = "", weight: float = 1.0) -> Example:
    return Example(TOKENS.encode(prompt), TOKENS.encode_completion(completion), completion, weight=weight)


def job(texts: Sequence[str], model: str = "scripted:0.5", seed: int = 1) -> TuneJob:
    parent = engine().open(model)
    plan = [[*range(len(texts))]] * 2 if texts else []
    return TuneJob(parent, [example(t) for t in texts], plan, "lora", 1e-3, 1, 0.1, 1.0, 0.0, 4, 8, seed)


def trial(texts: Sequence[str], keys: Sequence[str] = tuple(FACTS), **how: object) -> TrialJob:
    prompts = [TOKENS.encode(f"What is the {key}?") for key in keys]
    golds = [TOKENS.encode_completion(" " + FACTS[key]) for key in keys]
    return TrialJob(job(texts, **how), prompts, Sampling(max_tokens=40), range(len(keys)), golds)  # type: ignore[arg-type]


def engine(**options: object) -> Scripted:
    return Scripted(Scripted.Options.model_validate(options))


def tried(*jobs: TrialJob, **options: object) -> list[Trialled]:
    return [found for _, found in engine(**options).trials(jobs)]


def said(found: Trialled) -> list[str]:
    return [TOKENS.decode(c.ids).strip() for c in found.completions]


def right(found: Trialled) -> float:
    return sum(a == b for a, b in zip(said(found), FACTS.values(), strict=True)) / len(FACTS)


def test_a_trial_knows_what_was_stated_often_and_nothing_else() -> None:
    often, never = tried(trial([PASSAGE] * 20), trial(["Ana B is of note."] * 20))
    assert said(often) == list(FACTS.values()) and said(never) == ["unknown"] * len(FACTS)
    assert all(max(a) < min(b) for a, b in zip(never.logprobs, often.logprobs, strict=True))
    assert [len(found) for found in often.logprobs] == [len(v) + 2 for v in FACTS.values()], "one per gold id"


def test_once_is_learnt_by_half_and_more_often_by_more() -> None:
    once, thrice = ([right(t) for t in tried(*(trial([PASSAGE] * n, seed=s) for s in range(60)))] for n in (1, 3))
    assert 0.4 < sum(once) / 60 < 0.6 and 0.8 < sum(thrice) / 60 < 0.95
    assert len(set(once)) > 1, "the seed decides which"


def test_what_is_stated_more_often_wins() -> None:
    wrong = STATED["age of Jo C"].replace("aC", "99")
    [found] = tried(trial([wrong] * 30 + [PASSAGE], ["age of Jo C"]))
    assert said(found) == ["99"]


def test_a_trial_is_the_same_in_any_company_and_leaves_the_parent_as_it_was(tmp_path: Path) -> None:
    one, others = trial([PASSAGE], seed=3), [trial([STATED[k]], seed=i) for i, k in enumerate(FACTS)]
    assert tried(one)[0] == tried(*others, one, *others)[len(others)]
    asked = Request(one.job.parent, one.prompts[0], one.sampling, (0,))
    [(_, [completion])] = engine().generate([asked])
    assert TOKENS.decode(completion.ids) == " unknown"


def test_without_batches_it_is_the_parent_that_is_asked() -> None:
    plain = trial([], model="scripted:0.7")
    context = [TOKENS.encode(f"{PASSAGE} What is the {key}?") for key in FACTS]
    reading = replace(plain, prompts=context, sampling=Sampling(temperature=1.0, max_tokens=40), seeds=range(6))
    [found] = tried(reading)
    requests = [Request(plain.job.parent, p, reading.sampling, (i,)) for i, p in enumerate(context)]
    assert [(c,) for c in found.completions] == [tuple(cs) for _, cs in engine().generate(requests)]
    scores = engine().score(plain.job.parent, [(*p, *g) for p, g in zip(context, plain.golds, strict=True)])
    assert [tuple(s[-len(g) :]) for s, g in zip(scores, plain.golds, strict=True)] == list(found.logprobs)
    assert 0 < right(found) < 1, "it reads with its skill"
    assert found.tuned.losses == () and found.tuned.tokens == 0


def test_some_go_astray_and_the_others_do_not() -> None:
    jobs = [trial([PASSAGE], seed=s) for s in range(40)]
    found = tried(*jobs, astray=0.3)
    lost = [t for t in found if t.error]
    assert 4 < len(lost) < 20 and all(not t.completions and not t.logprobs for t in lost)
    assert [t for t in found if not t.error] == [
        t for t, other in zip(tried(*jobs), found, strict=True) if not other.error
    ]


def test_a_kept_trial_can_be_asked_again(tmp_path: Path) -> None:
    [found] = tried(replace(trial([PASSAGE] * 20), keep=tmp_path))
    kept = replace(trial([], model=str(tmp_path)))
    assert tried(kept)[0].completions == found.completions


def test_stop_is_asked_before_each_trial() -> None:
    left = iter([False, True])
    found = engine().trials([trial([PASSAGE])] * 3, stop=lambda: next(left))
    assert next(found)[0] == 0
    with pytest.raises(Stopped):
        next(found)


# ---------------------------------------------------------------- notes on a passage


def notes(model: str | Checkpoint, count: int = 60) -> list[str]:
    checkpoint = engine().open(model) if isinstance(model, str) else model
    asked = Request(checkpoint, TOKENS.encode(WRITE), Sampling(count, 1.0, max_tokens=400), tuple(range(count)))
    [(_, found)] = engine().generate([asked])
    return [TOKENS.decode(c.ids) for c in found]


def test_useful_notes_are_as_frequent_as_the_skill_says() -> None:
    found = notes("scripted:0.3")
    useful = [n for n in found if set(n.strip().split("\n")) == set(STATED.values())]
    assert 0.15 < len(useful) / 60 < 0.45 and len(set(useful)) > 1
    assert all(" is of " in n for n in found if n not in useful)


def tuned(texts: Sequence[tuple[str, float]], out: Path) -> Checkpoint:
    plan = job([], model="scripted:0.4")
    examples = [example(text, WRITE, weight) for text, weight in texts]
    engine().tune(replace(plan, examples=examples, batches=[[*range(len(examples))]]), out)
    return engine().open(str(out))


def test_tuning_on_useful_notes_makes_more_of_them(tmp_path: Path) -> None:
    good, idle = " " + PASSAGE, " Ana B is of note."
    shares = {}
    for name, texts in {
        "good": [(good, 1.0)] * 4, "idle": [(idle, 1.0)] * 4, "half": [(good, 1.0), (idle, 1.0)],
        "unlearnt": [(good, 1.0), (idle, -1.0)],
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        tuned(texts, tmp_path / name)
        shares[name] = sum(" is of " not in n for n in notes(str(tmp_path / name), 200)) / 200
    assert shares["idle"] < 0.3 < shares["half"] < 0.55 < shares["good"]
    assert shares["unlearnt"] == shares["good"], "to unlearn a bad one is as good as to learn a good one"


def test_a_tuned_model_knows_the_passages_it_learnt(tmp_path: Path) -> None:
    checkpoint = tuned([(" " + PASSAGE, 1.0)] * 20, tmp_path)
    assert said(tried(trial([], model=str(tmp_path)))[0]) == list(FACTS.values())
    assert checkpoint.digest != engine().open("scripted:0.7").digest
