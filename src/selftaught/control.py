"""Controls of a run: something else is learned in place of what the method makes, and all else stays as it is.

*random*: the method chooses at random (its hook ``at_random``). *real*: text of ``train.real``. *nothing*: the parent's
own unprompted text. Each takes as many tokens as the method's examples have, prompts and completions together, and its
examples count as the run's own: a control takes about as many steps, passes the same filters and faces the same gate.
What the method makes is sampled, harvested and counted all the same, since it sets the measure.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from selftaught.bench import RunBench
from selftaught.config import Recipe
from selftaught.engines.base import Tokens
from selftaught.errors import RecipeError
from selftaught.methods.base import Chooses, Group, Method
from selftaught.pieces import opening
from selftaught.replay import in_pieces, unprompted
from selftaught.setting import Setting
from selftaught.stopping import heeding
from selftaught.types import Checkpoint, Example, seed_for

SOURCE = "control"  # of the examples, which are the run's own: not in MIXED_IN
SCARCE = 0.1  # a wave of unprompted texts of which fewer are whole is the last
LOOK = 16  # examples or texts between two looks at the stop token
LEARNED = {
    "random": "what is learned was chosen at random, and not by the method",
    "real": "real text of train.real is learned in place of what the method makes",
    "nothing": "the parent's own unprompted text is learned in place of what the method makes",
}


def said(recipe: Recipe) -> str:
    """What a recipe's control is, in words; "" where it has none."""
    return f"control: {recipe.control} ({LEARNED[recipe.control]})" if recipe.control in LEARNED else ""


def planned(recipe: Recipe, method: Method, tokens: Tokens) -> tuple[str, ...]:
    """The control in words, if any. Raises RecipeError where this method, recipe or model cannot have it."""
    if recipe.control == "none":
        return ()
    if recipe.train.replay == 1:
        raise RecipeError(
            f"control={recipe.control} replaces what the method makes, and with train.replay=1 nothing of that is"
            " learned.",
            hint="Take one of the two: train.replay=1 is a control of its own.",
        )
    if recipe.control == "random" and not isinstance(method, Chooses):
        raise RecipeError(
            f"control=random: {method.name} chooses nothing of what it makes, so nothing can be chosen at random.",
            hint="Take control=real or control=nothing.",
        )
    if recipe.control == "real" and recipe.train.real is None:
        raise RecipeError(
            "control=real learns real text, and the recipe names none.",
            hint="Name a file as train.real (.txt or .jsonl), or take control=nothing.",
        )
    if recipe.control == "nothing" and not opening(tokens):
        raise RecipeError(
            "control=nothing learns what the model writes unprompted, and this one has no token to begin with.",
            hint="Take control=real, or control=random where the method has it.",
        )
    return (said(recipe),)


def instead(
    made: list[Example],
    groups: Sequence[Group],
    method: Method,
    parent: Checkpoint,
    setting: Setting,
    bench: RunBench,
) -> list[Example]:
    """What is learned in place of ``made``, in an order drawn by the bench's seed; without a control ``made`` itself.

    Where the method made nothing, nothing replaces it.
    """
    kind, budget = setting.recipe.control, sum(map(size, made))
    if kind == "none" or not made:
        return made
    setting.view.line(f"  {said(setting.recipe)}")
    if kind == "random":
        assert isinstance(method, Chooses), "planned refuses it"
        some = list(heeding(setting.stop, method.at_random(groups, bench), LOOK))
    elif kind == "real":
        some = in_pieces(heeding(setting.stop, setting.train_text, LOOK), setting.tokens, setting.recipe)
    else:
        some = _unprompted(parent, budget, setting, bench)
    order = random.Random(seed_for(bench.seed, SOURCE)).sample(some, len(some))
    drawn = list(heeding(setting.stop, filled(order, budget), LOOK))
    bench.note("control replaced examples", len(made))
    bench.note("control replaced tokens", budget)
    bench.note("control examples", len(drawn))
    bench.note("control tokens", sum(map(size, drawn)))
    bench.note("control repeated examples", max(0, len(drawn) - len(some)))
    return drawn


def _unprompted(parent: Checkpoint, budget: int, setting: Setting, bench: RunBench) -> list[Example]:
    """Whole texts of the parent, wave by wave, until they have ``budget`` tokens; never those that replay draws."""
    wave, seed = setting.recipe.train.replay_samples, seed_for(bench.seed, SOURCE)
    found: list[Example] = []
    first = 0
    while sum(map(size, found)) < budget:
        new = unprompted(parent, seed, setting.recipe, bench, SOURCE, first)
        found += new
        first += wave
        if len(new) < SCARCE * wave:
            break
    return found


def filled(some: Sequence[Example], budget: int) -> Iterator[Example]:
    """``some`` in order until ``budget`` tokens are reached, again from the first when they are used up: each time as
    examples of their own, so that none is taken for the other.
    """
    turn = 0
    while budget > 0 and any(map(size, some)):
        again = (f"again {turn}",) if turn else ()
        for example in some:
            if budget <= 0:
                return
            yield replace(example, source=SOURCE, parents=(*example.parents, *again))
            budget -= size(example)
        turn += 1


def size(example: Example) -> int:
    return len(example.prompt_ids) + len(example.completion_ids)
