"""Who stands in for the student in a role: another local model, or one behind a server. The student stays local.

What another model wrote is put into the student's tokens before anything learns from it, and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selftaught import load
from selftaught.config import Member, Recipe, RolesConfig, Served
from selftaught.engines.base import Engine, Generates, Tokens
from selftaught.errors import RecipeError
from selftaught.methods.base import Method, most_samples
from selftaught.replies import NAME, Replies
from selftaught.types import Checkpoint, Rollout, Task, digest

STUDENT = "student"  # the role of the model that learns
TOO_LONG = "longer than the student's context"


@dataclass(frozen=True)
class Role:
    """Who answers in a role. ``used`` counts what a server gave out; ``follows``: it serves each round's parent."""

    name: str
    engine: Generates
    checkpoint: Checkpoint
    tokens: Tokens
    used: Counter[str] = field(default_factory=Counter)
    verifiable: bool = True  # whether the digest is one of weights; what really answers behind a server nobody knows
    follows: bool = False

    def beside(self, parent: Checkpoint) -> Role:
        """The role in a round that begins with ``parent``."""
        if not self.follows:
            return self
        name = digest(self.checkpoint.digest, parent.digest)
        return replace(self, checkpoint=Checkpoint(name, self.checkpoint.model, parent.adapter, parent.digest))

    def as_facts(self) -> Mapping[str, Any]:
        """For the record. No path: that is in the recipe."""
        return {"digest": self.checkpoint.digest, "verifiable": self.verifiable}


def check(recipe: Recipe, method: Method, engine: Engine) -> tuple[str, ...]:
    """What the roles of a settled recipe come to, in words.

    Raises RecipeError for a role that nobody would ask, and for a server that cannot be asked as the recipe says;
    ModelError for a model that cannot be opened. No server is asked yet.
    """
    unused = [name for name in recipe.roles.given if name not in (*method.roles, "labeller")]  # see questions.py
    if unused:
        uses = ", ".join(f"roles.{r}" for r in method.roles) or "none"
        raise RecipeError(
            f"roles.{unused[0]} is set, and {method.name} asks nobody in that role.",
            hint=f"Take it out of the recipe; {method.name} uses: {uses}.",
        )
    if "editor" in recipe.gate.controls and recipe.roles.editor is None:
        raise RecipeError("gate.controls has editor, and roles.editor is nobody.", hint="Name a model or a server.")
    if recipe.budget.minutes is not None and recipe.gate.primary.protocol == "adapt":
        raise RecipeError(
            "budget.minutes is planned by the pace of samples and answers, not of adapters.",
            hint="Set method.passages, trial.seeds and budget.holdout_share by hand.",
        )
    if recipe.roles.given and recipe.budget.minutes is not None:
        raise RecipeError(
            "budget.minutes is planned by the pace of the student, and other models write here (roles).",
            hint="Set budget.train_share and budget.holdout_share by hand.",
        )
    served = {name: who for name, who in recipe.roles.given.items() if isinstance(who, Served)}
    if recipe.budget.money is not None and not served:
        raise RecipeError("budget.money is what servers may cost, and no role has one.", hint="Take it out.")
    for name, who in served.items():
        _check_terms(recipe, name, load.make("engines", who).options)
    open_roles(recipe, engine, None)
    return tuple(f"roles.source: {said}" for said in [written_by(recipe)] if said)


def planned(recipe: Recipe, method: Method, questions: int) -> tuple[str, ...]:
    """What a server as the source may be asked for by a run on so many training questions (of a method that reads them,
    documents), and which others are asked for more than is planned, in words.
    """
    served = {name for name, who in recipe.roles.given.items() if isinstance(who, Served)}
    others = tuple(
        f"roles.{name}: what it costs is not in this plan; budget.money is the most that all may cost"
        for name in ("judge", "editor", "labeller")
        if name in served
    )
    return (*_source_planned(recipe, method, questions), *others)


def _source_planned(recipe: Recipe, method: Method, questions: int) -> tuple[str, ...]:
    who = recipe.roles.source
    if not isinstance(who, Served):
        return ()
    samples = recipe.rounds * most_samples(method, min(questions, recipe.round_questions or questions))
    tokens = samples * method.sampling().max_tokens
    cost = load.make("engines", who).options.price(0, tokens)
    said = f"roles.source: up to {samples:,} samples of {tokens:,} tokens in all"
    return (f"{said}, for {cost:,.4g} and what the prompts cost" if cost else said,)


def _check_terms(recipe: Recipe, name: str, terms: Any) -> None:
    if terms.reload and name in ("judge", "editor"):
        raise RecipeError(
            f"roles.{name}.reload: reload serves the student, and whoever has this role stays the same in every round.",
            hint="Leave reload out.",
        )
    if terms.reload and recipe.train.kind != "lora":
        raise RecipeError(
            f"roles.{name}.reload loads adapters into the server, and train.kind={recipe.train.kind} makes none.",
            hint="Set train.kind=lora, or leave reload out.",
        )
    if recipe.budget.money is not None and not terms.price_prompt + terms.price_completion:
        raise RecipeError(
            f"budget.money cannot be kept to: roles.{name} names no price.",
            hint=f"Write roles.{name}.price_prompt and roles.{name}.price_completion, per million tokens.",
        )


def open_roles(recipe: Recipe, engine: Engine, folder: Path | None) -> dict[str, Role]:
    """Every role that somebody else has. ``folder`` is the run's, where replies of servers are kept."""
    found, path = {}, folder / NAME if folder is not None else None
    served = any(isinstance(who, Served) for who in recipe.roles.given.values())
    replies = Replies(path if served else None, recipe.budget.money)
    for name, who in recipe.roles.given.items():
        if isinstance(who, Served):
            found[name] = _open_served(name, who, recipe, replies, engine)
        elif name == "source" and os.path.isfile(who):
            file = load.make("engines", Member.model_validate({"name": "text_file", "path": who}))
            checkpoint = file.open()
            found[name] = Role(name, file, checkpoint, file.tokens(checkpoint))
        else:
            checkpoint = engine.open(who)
            found[name] = Role(name, engine, checkpoint, engine.tokens(checkpoint))
    return found


def _open_served(name: str, who: Served, recipe: Recipe, replies: Replies, engine: Engine) -> Role:
    with_prompt = who.model_copy(update={"prompt": recipe.prompt.model_dump()})
    endpoint = load.make("engines", with_prompt)
    endpoint.key()  # RecipeError now, and not after hours
    endpoint.replies, endpoint.notice = replies, lambda event, **facts: engine.notice(event, **facts)
    checkpoint = endpoint.open()
    return Role(name, endpoint, checkpoint, endpoint.tokens(checkpoint), endpoint.used, False,
                endpoint.options.reload)  # fmt: skip


def written_by(recipe: Recipe) -> str:
    """Whose text a run learns from, in words; "" where the student writes here."""
    who = recipe.roles.source
    if who is None:
        return ""
    if isinstance(who, str) and os.path.isfile(who):
        return f"nobody writes here: the texts of {who} are what is learned from"
    if isinstance(who, str):
        return f"another model, {who}, writes what is learned from"
    there = f"{who.options['model']} at {who.options['url']}"
    name = f"the student itself, served as {there}," if who.options.get("reload") else f"another model, {there},"
    return f"{name} writes what is learned from; what really answers there cannot be checked"


def taken(facts: Mapping[str, Any]) -> dict[str, int]:
    """What roles gave out for a unit, from its facts: "NAME: prompt tokens" and the like."""
    found = {name: facts[name] for name in RolesConfig.model_fields if name in facts}
    return {f"{name}: {what}": count for name, counts in found.items() for what, count in counts.items()}


def money(recipe: Recipe, counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Role -> what its server's tokens in ``counts`` (of rounds and units) cost, by the prices of the recipe."""
    found = {}
    for name, who in recipe.roles.given.items():
        if isinstance(who, Served):
            terms = load.make("engines", who).options
            tokens = (sum(c.get(f"{name}: {kind} tokens", 0) for c in counts) for kind in ("prompt", "completion"))
            found[name] = terms.price(*tokens)
    return found


# ---------------------------------------------------------------- tokens


def retokenised(rollouts: Sequence[Rollout], tasks: Sequence[Task], tokens: Tokens) -> tuple[list[Rollout], int]:
    """Another model's rollouts as the student's tokens, and how many were put into them.

    The text follows the student's own prompt as a given answer does (``Tokens.lead``) and ends with the end token. What
    was written in the same tokens after the same prompt stays as it is.
    """
    prompts = {t.id: tokens.render(t.prompt, t.form) for t in tasks}
    found = [_retokenised(r, prompts[r.task_id], tokens) for r in rollouts]
    return found, sum(new is not old for new, old in zip(found, rollouts, strict=True))


def _retokenised(row: Rollout, prompt: str, tokens: Tokens) -> Rollout:
    prompt_ids = tokens.encode(prompt)
    if (row.tokenizer, row.prompt_ids) == (tokens.digest, prompt_ids):
        return row
    said = row.text.strip()
    text = tokens.lead(prompt) + said if said and prompt else said
    ids = tokens.encode_completion(text) if said or row.error is None else ()
    moved = replace(row, tokenizer=tokens.digest, prompt_ids=prompt_ids, completion_ids=ids, text=text, logprobs=())
    if row.error is None and len(prompt_ids) + len(ids) > tokens.context:
        return replace(moved, answer=None, error=TOO_LONG)
    return moved
