"""Text that no method made, mixed into every update against forgetting.

*replay*: what the base writes unprompted (Bansal and Sanghavi 2025, arXiv 2505.13811), with no label in it.
*real*: texts of the file ``train.real``. They are mixed into the update of every round, whatever came before, because
models that learn from models get worse where what those wrote takes the place of real data, and do not where it is
added to it (Gerstgrasser et al. 2024, arXiv 2404.01413).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selftaught.bench import RunBench
from selftaught.config import Recipe
from selftaught.engines.base import StopToken, Tokens, never
from selftaught.errors import DataError
from selftaught.pieces import opening, pieces
from selftaught.setting import Setting
from selftaught.stopping import heeding
from selftaught.tasks.base import Held
from selftaught.texts import read_texts
from selftaught.types import Checkpoint, Example, Sampling, Task

LOOK = 16  # texts cut between two looks at the stop token


def mixed(made: Sequence[Example], setting: Setting, bench: RunBench) -> list[Example]:
    """What the method made, and both sorts of text; where it made nothing, nothing is mixed.

    Real text stands first: of two duplicates the first is kept, and what a model wrote never takes a real text's place.
    """
    return [*_real(setting, bench), *made, *_unprompted(setting, bench)] if made else []


def _unprompted(setting: Setting, bench: RunBench) -> list[Example]:
    recipe = setting.recipe
    return unprompted(setting.base, recipe.seed, recipe, bench, "replay") if recipe.train.replay else []


def unprompted(
    checkpoint: Checkpoint, seed: int, recipe: Recipe, bench: RunBench, source: str, first: int = 0
) -> list[Example]:
    """``train.replay_samples`` texts that a checkpoint writes unprompted, from the ``first`` on, counted as ``source``;
    without those that were cut off or are empty.
    """
    config = recipe.train
    sampling = Sampling(config.replay_samples, 1.0, max_tokens=config.replay_max_tokens)
    task = Task((), checker=next((t.checker for t in bench.tasks), ""), source=source)
    [(_, rollouts)] = bench.sample(checkpoint, seed, [task], sampling, first=first)
    whole = [r for r in rollouts if r.error is None and r.text.strip()]
    bench.note(f"{source} sampled", len(rollouts))
    bench.note(f"{source} truncated", len(rollouts) - len(whole))
    return [Example(r.prompt_ids, r.completion_ids, r.text, source=source, parents=(r.id,)) for r in whole]


def _real(setting: Setting, bench: RunBench) -> list[Example]:
    if not setting.recipe.train.shares["real"] or setting.recipe.control == "real":  # which learns it already
        return []
    found = in_pieces(heeding(setting.stop, setting.train_text, LOOK), setting.tokens, setting.recipe)
    bench.note("real texts", len(setting.train_text))
    bench.note("real pieces", len(found))
    return found


def in_pieces(texts: Iterable[Task], tokens: Tokens, recipe: Recipe) -> list[Example]:
    """Every text as one example or more, in order."""
    return [piece for text in texts for piece in _pieces(text, tokens, recipe.curate.max_tokens)]


def _pieces(text: Task, tokens: Tokens, most: int) -> list[Example]:
    """``task_id`` names the text, so that filters hold texts against each other and not the pieces of one."""
    return [Example(*piece, text.id, source="real") for piece in pieces(text.question, tokens, most)]


def planned(recipe: Recipe, tokens: Tokens, stop: StopToken = never) -> tuple[float, tuple[str, ...]]:
    """(tokens of a piece of real text on average, what there is of it in words). Raises DataError (see read_texts; or
    where all of it is held out) and Stopped."""
    texts = read_texts(recipe.train.real, "train.real")
    if not texts:
        return 0.0, ()
    pieces, share = in_pieces(heeding(stop, texts, LOOK), tokens, recipe), recipe.train.shares["real"]
    length = sum(len(p.prompt_ids) + len(p.completion_ids) for p in pieces) / len(pieces)
    said = f"train.real: {len(texts):,} texts in {len(pieces):,} pieces of {length:,.0f} tokens on average"
    used = f"{share:.0%} of the examples" if share else "left out, as train.replay is 1"
    used = "learned in place of what the method makes" if recipe.control == "real" else used
    begin = () if opening(tokens) else ("train.real: this model has no token to begin with: texts start without one",)
    return length, (f"{said}; {used}", *begin, *_held_out(recipe, texts))


def _held_out(recipe: Recipe, texts: Sequence[Task]) -> tuple[str, ...]:
    """How many of ``texts`` are those of gate.text, which nothing is learned from, in words."""
    held = Held(t.prompt for t in read_texts(recipe.gate.text, "gate.text", recipe.gate.text_items))
    count = sum(held.shows(t.prompt) for t in texts)
    if count == len(texts):
        raise DataError(
            "All texts of train.real stand in gate.text, which is held out: none could be learned.",
            hint="Share the texts out over two files, or lower gate.text_items.",
        )
    return (f"train.real: {count:,} of its texts stand in gate.text and are not learned",) if count else ()
