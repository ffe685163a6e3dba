"""A first look at a user's file, before anything runs: what is in it, how it would be split, what it can prove."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import yaml

from selftaught.config import GateConfig, Recipe
from selftaught.engines.base import Request
from selftaught.errors import RecipeError
from selftaught.load import make
from selftaught.loop import load_tasks, make_engine
from selftaught.store import write_file
from selftaught.tasks._rows import Questions
from selftaught.tasks._split import prompt_key
from selftaught.tasks.base import sizes
from selftaught.tasks.jsonl import Jsonl
from selftaught.types import Task

LONG_ANSWER = 12  # words; longer ones are rarely written alike twice


@dataclass(frozen=True)
class Findings:
    """What `selftaught init FILE` says. Gains are shares of questions (0.05: five points); None: none can be shown."""

    path: Path
    format: str  # "JSON lines", "CSV", ...
    shapes: Mapping[str, int]  # "question + answer" -> rows
    rows: int
    labelled: int
    duplicates: int
    groups: int
    checker: str
    example: Task  # the first question of the file, as it is there
    sizes: Mapping[str, int]  # suite -> questions, as they would be split
    dev_gain: float | None  # smallest true gain that dev shows with 80 % power
    vault_gain: float | None  # the same for one look at the vault
    notes: tuple[str, ...]
    model: str | None = None

    @property
    def proof(self) -> str:
        """What the labelled part can prove, in one sentence."""
        if not self.labelled:
            return "No question has an answer, so nothing can be proved: a run ends `unproven`."
        return (
            f"Can be shown with 80 % power: on dev {_points(self.dev_gain)}, on the vault {_points(self.vault_gain)}."
        )


def _points(gain: float | None) -> str:
    return "no gain (too few labelled questions)" if gain is None else f"a gain of {100 * gain:.1f} points or more"


def look(path: Path, model: str | None = None, seed: int = 0) -> Findings:
    """Read and split ``path`` as a run would. Raises DataError as that run would."""
    from selftaught.paired import units
    from selftaught.power import smallest_gain

    source = Jsonl(Jsonl.Options(path=str(path)))
    files = source.read()
    tasks = source.arrange(files, seed)
    questions, gate = files.questions, GateConfig()
    first = questions.items[0]
    checker = source.checker(files).name
    return Findings(
        path=path,
        format=questions.format,
        shapes=questions.shapes,
        rows=len(questions.items),
        labelled=len(questions.golds),
        duplicates=len(questions.items) - len({prompt_key(Task(q.prompt)) for q in questions.items}),
        groups=len({q.group for q in questions.items} - {None}),
        checker=checker,
        example=Task(first.prompt, first.gold, checker, group=first.group, source=first.source),
        sizes=sizes(tasks),
        dev_gain=smallest_gain(units([t.group for t in tasks.dev]), gate.alpha),
        vault_gain=smallest_gain(units([t.group for t in tasks.vault]), gate.alpha / gate.looks),
        notes=(*tasks.notes, *_warnings(questions, checker)),
        model=model,
    )


def _warnings(questions: Questions, checker: str) -> list[str]:
    if not questions.golds or checker != "exact":
        return []
    words = median(len(gold.split()) for gold in questions.golds)
    if words <= LONG_ANSWER:
        return []
    return [
        f"answers have {words:g} words in the median: compared word for word they will rarely agree; shorten them to "
        "a final answer, set tasks.answer_pattern, or write a checker (tasks.checker=file.py:function)"
    ]


def first_try(recipe: Recipe, findings: Findings) -> tuple[str, str, str | None]:
    """(prompt as the model gets it, its greedy completion, the answer parsed from it) for the file's first question."""
    engine, method = make_engine(recipe), make("methods", recipe.method)
    try:
        checkpoint = engine.open(recipe.model)
        tokens = engine.tokens(checkpoint)
        task = method.ask(findings.example)
        prompt = tokens.render(task.prompt, task.form)
        sampling = replace(method.sampling(), n=1, temperature=0.0)
        request = Request(checkpoint, tokens.encode(prompt), sampling, (recipe.seed,))
        [(_, [completion])] = list(engine.generate([request]))
        text = tokens.decode(completion.ids)
        answer, _ = load_tasks(recipe).check(findings.example, tokens.said(request.prompt_ids, text) or "")
        return prompt, text, answer
    finally:
        engine.close()


# ---------------------------------------------------------------- the recipe

_RECIPE = """\
# {path}: {rows} rows, {labelled} with an answer; format: {format} ({shapes}).
# Split: {split}.
# {proof}
# Run it:        selftaught run {out}
# Change a line: selftaught run {out} method.samples=8

name: {name}
model: {model}{model_hint}
seed: 0

method:
  name: self_consistency         # Huang et al. 2022 (LMSI): sample many answers, train on those that agree
  samples: 16                    # answers per question; more is slower and votes better
  temperature: 0.7
  max_tokens: 256                # per answer; an answer that is cut off does not vote
  min_share: 0.5                 # share of the samples that must agree
  sample_format: zero_shot_cot   # adds "Let's think step by step."
  formats: [zero_shot_cot, answer_only]   # how the agreed answers are written down for training

tasks:
  name: jsonl
  path: {data}
  checker: {checker:<21} # any, exact, number, choice, regex (with pattern) or a file.py:function
  # holdout: labelled.jsonl      # a labelled file of its own for dev and vault
  # guard: other.jsonl           # labelled questions of another kind that must not get worse
  # limit: 500                   # at most so many training questions

train:
  kind: auto                     # full for tiny models, else lora

gate:
  alpha: {alpha:g}                    # one-sided error of the claim "it got better"
  looks: {looks}                       # looks at the vault, each at alpha / looks
  min_gain: {min_gain:g}                 # if the labelled questions cannot show this gain, a run may end `unproven`
"""


def write_recipe(findings: Findings, model: str | None, out: Path, *, force: bool = False) -> Path:
    """A commented recipe for self-consistency on the file that was looked at.

    Raises RecipeError if ``out`` is there already and ``force`` is not set.
    """
    if out.exists() and not force:
        raise RecipeError(
            f"{out} is there already.", hint="Choose another name with --out, or overwrite it with --force."
        )
    chosen = model or findings.model
    gate = GateConfig()
    text = _RECIPE.format(
        path=_comment(str(findings.path)),
        data=_quoted(str(findings.path)),
        out=_comment(str(out)),
        name=_name(out),
        model=_quoted(chosen or Recipe.model_fields["model"].default),
        model_hint="" if chosen else "   # put your own here: a folder or a hub id, for example Qwen/Qwen3-0.6B",
        rows=findings.rows,
        labelled=findings.labelled,
        format=findings.format,
        shapes=_comment(", ".join(findings.shapes)),
        split=", ".join(f"{count} {name}" for name, count in findings.sizes.items()),
        proof=findings.proof,
        checker=findings.checker,
        alpha=gate.alpha,
        looks=gate.looks,
        min_gain=gate.min_gain,
    )
    try:
        write_file(out, text.encode())
    except OSError as error:
        raise RecipeError(f"{out} cannot be written: {error.strerror}.", hint="Name a file with --out.") from error
    return out


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _quoted(text: str) -> str:
    """A YAML string in double quotes, on one line."""
    return yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True).strip()


def _name(out: Path) -> str:
    """A run name from a file name: a-z, 0-9, "_" and "-", at most 64 characters."""
    return re.sub(r"[^a-z0-9_-]+", "-", out.stem.lower()).strip("-_")[:64] or "my-run"
