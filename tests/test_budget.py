"""``budget.minutes``: the arithmetic of the shares, what is refused, and what is cut."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import papers
import small
from selftaught import auditing, budget, loop
from selftaught.budget import Pace, shares
from selftaught.config import Recipe, read_recipe
from selftaught.engines.scripted import Scripted
from selftaught.errors import RecipeError
from selftaught.tasks.base import TaskSet

PACE = Pace(start=8.0, sample=0.01, answer=0.02, token=1e-4, length=50)
MOST = (8, 8)
WHOLE = small.tasks(small.sums(400), small.sums(300, "dev", 1000), sort=small.sums(100, "guard", 3000))
#   judging: 2 * 400 * 0.02 = 16 s; learning, per question: 8 * 0.01 + 8 * 50 * 1e-4 = 0.12 s, for 400: 48 s


def timed(minutes: float, *overrides: str) -> Recipe:
    return small.recipe(f"budget.minutes={minutes}", "train.replay=0", *overrides)


def minutes_of(seconds: float) -> float:
    return (seconds + PACE.start) / 60 / budget.SAFETY


# ---------------------------------------------------------------- shares


def test_enough_time_takes_everything() -> None:
    assert shares(timed(minutes_of(16 + 48)), WHOLE, PACE, MOST) == pytest.approx((1.0, 1.0))


def test_judging_takes_at_most_half_and_learning_the_rest() -> None:
    train, holdout = shares(timed(minutes_of(24)), WHOLE, PACE, MOST)
    assert holdout == pytest.approx(12 / 16), "half of 24 seconds"
    assert train == pytest.approx(12 / 48), "the other half"
    train, holdout = shares(timed(minutes_of(40)), WHOLE, PACE, MOST)
    assert (train, holdout) == pytest.approx((24 / 48, 1.0)), "what judging leaves goes to learning"


def test_replay_epochs_and_steps_are_counted() -> None:
    plain = shares(timed(minutes_of(40)), WHOLE, PACE, MOST)[0]
    sampled = shares(timed(minutes_of(40), "train.replay=0.5", "train.replay_samples=100"), WHOLE, PACE, MOST)[0]
    assert sampled == pytest.approx((24 - 1) / (400 * (0.08 + 0.08))), "100 texts, and two tokens trained for each one"
    assert shares(timed(minutes_of(40), "train.epochs=3"), WHOLE, PACE, MOST)[0] == pytest.approx(24 / (400 * 0.2))
    fixed = shares(timed(minutes_of(40), "train.steps=40", "train.batch_tokens=1000"), WHOLE, PACE, MOST)[0]
    assert fixed == pytest.approx((24 - 4) / 32), "40 steps of 1,000 tokens take 4 s, whatever the questions"
    alone = shares(timed(minutes_of(40), "train.replay=1", "train.replay_samples=100"), WHOLE, PACE, MOST)[0]
    assert alone == pytest.approx((24 - 1) / 48), "replay alone trains as much as the examples would"
    real = timed(minutes_of(40), "train.real=a.txt", "train.real_share=0.5")
    found = shares(real, WHOLE, replace(PACE, real=150.0), MOST)[0]
    assert found == pytest.approx(24 / (400 * (0.08 + 0.04 + 0.12))), (
        "for each example a real text, three times as long"
    )
    assert plain > sampled


def test_a_run_without_holdouts_learns_all_the_time() -> None:
    bare = small.tasks(small.sums(400))
    assert shares(timed(minutes_of(24)), bare, PACE, MOST) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("answer", [0.0001, 0.02, 1.0, 50.0], ids="judging takes {} s an answer".format)
@pytest.mark.parametrize("train", [3, 400])
def test_too_short_is_refused_and_the_minutes_it_names_are_enough(answer: float, train: int) -> None:
    pace = replace(PACE, answer=answer, start=90.0, sample=0.5)
    tasks = replace(WHOLE, train=WHOLE.train[:train])
    with pytest.raises(RecipeError, match=r"budget.minutes=0.5 is too short") as refused:
        shares(timed(0.5), tasks, pace, MOST)
    named = int(re.search(r"Give (\d+) or more", str(refused.value))[1])
    found = shares(timed(named), tasks, pace, MOST)
    assert all(0 < s <= 1 for s in found)
    assert found[0] * train >= min(budget.MIN_QUESTIONS, train) - 1e-9
    if named > 1:
        with pytest.raises(RecipeError):
            shares(timed(named - 1), tasks, pace, MOST)


# ---------------------------------------------------------------- trimming


def recipe_with(train: float, holdout: float) -> Recipe:
    return small.recipe(f"budget.train_share={train}", f"budget.holdout_share={holdout}")


def test_a_trimmed_suite_is_the_beginning_of_the_whole() -> None:
    cut = budget.trim(WHOLE, recipe_with(0.25, 0.5))
    assert cut.train == WHOLE.train[:100]
    assert cut.dev == WHOLE.dev[:150]
    assert cut.guards == {"sort": WHOLE.guards["sort"][:50]}
    assert budget.trim(WHOLE, recipe_with(1, 1)) == WHOLE


def test_of_questions_about_documents_whole_documents_stay() -> None:
    whole = papers.world(train=8, dev=10, vault=10)
    mixed = tuple(t for part in range(4) for t in whole.dev[part::4])  # documents in turn, a question of each
    whole = replace(whole, dev=mixed, guards={"sort": WHOLE.guards["sort"]})
    cut = budget.trim(whole, recipe_with(0.25, 0.1))
    assert cut.dev == tuple(t for t in mixed if t.group == mixed[0].group) and len(cut.dev) == 4
    assert (len(cut.train), len(cut.vault)) == (8, 4)
    assert cut.guards == {"sort": WHOLE.guards["sort"][:10]}, "questions about none are cut one by one"
    assert budget.trim(whole, recipe_with(1, 1)) == whole


def test_no_suite_is_cut_to_nothing_and_an_empty_one_stays_empty() -> None:
    cut = budget.trim(WHOLE, recipe_with(0.001, 0.001))
    assert (len(cut.train), len(cut.dev), cut.vault) == (1, 1, ())


# ---------------------------------------------------------------- measured on the engine


def load(recipe: Recipe) -> TaskSet:
    return loop.load_tasks(recipe)


def test_without_minutes_nothing_is_measured() -> None:
    engine = small.Counting()
    recipe = small.recipe()
    assert budget.fit(recipe, engine, load(recipe)) == (recipe, ())
    assert engine.calls == []


def test_fit_measures_and_says_what_it_allows() -> None:
    engine = small.Counting()
    recipe = settled("budget.minutes=30")
    fitted, notes = budget.fit(recipe, engine, load(recipe))
    assert (fitted.budget.train_share, fitted.budget.holdout_share) == (1.0, 1.0)
    assert notes == ("budget: 30 minutes allow 100% of the training questions and 100% of the held-out ones",)
    assert engine.calls == [32 * 8, 32 * 8, 32], "twice the samples of 32 questions, once their greedy answers"


def settled(*overrides: str) -> Recipe:
    return small.recipe("train.kind=full", "train.lr=1e-3", *overrides)


def test_shares_set_by_hand_are_shared_out_further() -> None:
    recipe = settled("budget.minutes=30", "budget.train_share=0.5", "budget.holdout_share=0.25")
    fitted, _ = budget.fit(recipe, Scripted(Scripted.Options()), load(recipe))
    assert (fitted.budget.train_share, fitted.budget.holdout_share) == (0.5, 0.25)


def test_less_than_the_pace_allows_is_refused_in_words() -> None:
    recipe = settled("budget.minutes=1e-6")
    with pytest.raises(RecipeError, match="too short for this model here") as refused:
        budget.fit(recipe, Scripted(Scripted.Options()), load(recipe))
    assert "Give 1 or more" in str(refused.value)


@pytest.mark.parametrize("engine", [{"diverges": True}, {"answers": False}, {"truncates": 1.0}])
def test_a_model_that_fails_the_probe_is_still_measured(engine: dict[str, object]) -> None:
    recipe = settled("budget.minutes=30")
    fitted, _ = budget.fit(recipe, Scripted(Scripted.Options.model_validate(engine)), load(recipe))
    assert fitted.budget.train_share == 1.0


def test_a_prepared_run_keeps_its_shares_and_is_read_back(tmp_path: Path) -> None:
    folder = small.prepared(tmp_path / "r", "budget.minutes=30", "budget.holdout_share=0.5")
    recipe = read_recipe(folder / "recipe.yaml")
    assert (recipe.budget.train_share, recipe.budget.holdout_share) == (1.0, 0.5)
    assert len(load(recipe).dev) == 60
    assert budget._share(1e-9) > 0, "a share of nothing could not be read back"


def test_what_audits_sample_is_planned_too() -> None:
    plain = shares(timed(minutes_of(24)), WHOLE, PACE, MOST)[0]
    audited = shares(timed(minutes_of(24)), WHOLE, replace(PACE, audited=200), MOST)[0]
    assert audited == pytest.approx(plain - 200 * PACE.sample / (len(WHOLE.train) * _each(PACE)))


def _each(pace: budget.Pace) -> float:
    """Seconds that one training question takes."""
    samples, examples = MOST
    return samples * pace.sample + examples * timed(1).train.epochs * pace.length * pace.token


def test_a_run_of_rounds_shares_the_bases_audit_out() -> None:
    recipe = small.recipe("audits.memorization.skip=nothing", "audits.collapse.samples=20")
    assert auditing.samples(recipe) == 2 * 4 * 20
    assert auditing.samples(recipe.model_copy(update={"rounds": 4})) == 1.25 * 4 * 20
