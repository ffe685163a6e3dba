"""A run's model as a folder to give away: weights as any loader reads them, and a card of its lineage and proof."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from selftaught import control, figures
from selftaught.arms import arms
from selftaught.config import Recipe, Served, to_yaml
from selftaught.errors import RunError, noticing_a_full_disk
from selftaught.ledger import GOOD, RunRecord
from selftaught.store import check_files, make_folder, publish_folder, remove, write_file
from selftaught.trends import audits, main
from selftaught.types import Labels, Rule

NOT_PROVED = {
    "accepted": "The gain was shown on dev questions, which every run on them may look at; no vault confirmed it.",
    "unproven": "**Nobody knows whether this model is better than its parent**: too few labelled questions to tell.",
    "rejected": "**The gate rejected this model.** It is here for inspection.",
}
PAIR = (
    "This run named private texts. Publish this model or the one that it began with, never both, and no other"
    " candidate or checkpoint of the run: two of them together give away what one has forgotten (arXiv 2505.24379)."
)
DOCUMENTS = "documents: it writes edits of them, and adapters that learn those are asked what they say"
CARD = """---
tags: [selftaught, synthetic-data]
library_name: {library}
---
# {name}
{control}
{kind} of `{model}`, trained on text that {author} by the method `{method}`, and judged on held-out
{judged}.{real} Outcome: **{outcome}** ({reason}).

{warning}{private}
| rule | before | after | passed | how |
|---|---|---|---|---|
{rules}

- The claim, made before the run: {claim}.
{arms}{audits}- Labels were used for: {labels}.
- Training data: {kept} examples kept of {made} made; what was rejected, and why, is in the run's record.
- Parent: `{parent}`
- This model: `{candidate}`
- Record: head `{head}` of {entries} entries. `selftaught verify` holds the record against itself.

The recipe, as it ran:

```yaml
{recipe}```
"""


def export(record: RunRecord, out: Path, *, anyway: bool = False) -> Path:
    """Copy the candidate's weights to ``out`` and write its card there. The record's bytes are checked first.

    Nothing else of the run goes along: no parent, no other checkpoint of its update.

    Raises RunError when there is no candidate, when it was rejected and ``anyway`` is not set, or when ``out`` is there
    already; IntegrityError when the weights are not what was recorded.
    """
    weights = record.kept
    if weights is None or not record.over:
        raise RunError(f"{record.name} has no judged model ({record.outcome}).",
                       hint=f"See: selftaught show {record.name}")  # fmt: skip
    if record.outcome not in (*GOOD, "unproven") and not anyway:
        raise RunError(f"{record.name} was {record.outcome}: its model is no better than the parent.",
                       hint="Export it all the same with --anyway.")  # fmt: skip
    if out.exists():
        raise RunError(f"{out} is there already.", hint="Name a folder that is not.")
    record.check_candidate()
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        with noticing_a_full_disk(out):
            make_folder(out.absolute().parent)
            shutil.copytree(weights, temporary)
            for path in temporary.iterdir():
                path.chmod(0o644)
            write_file(temporary / "README.md", card(record).encode())
            publish_folder(temporary, out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}.", hint="Name another folder.") from error
    finally:
        if temporary.exists():
            remove(temporary)
    return out


def beside(record: RunRecord) -> str:
    """What whoever publishes a run's model has to know of its other models, or "" where no text is private."""
    return PAIR if "private texts" in record.facts("tasks") or record.recipe.private else ""


def export_data(record: RunRecord, out: Path) -> Path:
    """Copy what the final round made, kept and rejected alike with every reason, to ``out``, with a dataset card.

    Raises RunError when nothing was curated or ``out`` is there already; IntegrityError when bytes are not as recorded.
    """
    units = [*record.units("examples", record.final), *record.units("reviewed", record.final)]
    if not units:
        raise RunError(f"{record.name} has curated nothing yet ({record.outcome}).",
                       hint=f"See: selftaught show {record.name}")  # fmt: skip
    if out.exists():
        raise RunError(f"{out} is there already.", hint="Name a folder that is not.")
    check_files(record.path / units[-1]["place"], units[-1]["files"])
    temporary = out.with_name(f".tmp-{out.name}")
    try:
        with noticing_a_full_disk(out):
            make_folder(out.absolute().parent)
            shutil.copytree(record.path / units[-1]["place"], temporary)
            write_file(temporary / "README.md", data_card(record).encode())
            publish_folder(temporary, out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}.", hint="Name another folder.") from error
    finally:
        if temporary.exists():
            remove(temporary)
    return out


DATA_CARD = """---
tags: [selftaught, synthetic-data]
configs:
- config_name: kept
  data_files: kept.parquet
- config_name: rejected
  data_files: rejected.parquet
- config_name: verdicts
  data_files: verdicts.parquet
---
# Examples of {name}
{control}
Text that {author}, by the method `{method}`. **It is {nature}**: whatever it says was checked
by filters, not by people, unless a verdict says otherwise.{real} The round they come from: **{outcome}**.

{counts}

`rejected.parquet` holds what was not learned, and `verdicts.parquet` who rejected it and why, in the same order.

- Written by: {writer}
- Labels were used for: {labels}.
- Record: head `{head}` of {entries} entries.

The recipe, as it ran:

```yaml
{recipe}```
"""


def data_card(record: RunRecord) -> str:
    """The dataset card: who wrote it, how, how much of it was kept."""
    done = record.final
    counts = done.counts if done else record.facts("examples").get("counts", {})
    parent, real = done.parent if done else record.facts("tasks").get("model"), record.recipe.control == "real"
    return DATA_CARD.format(
        name=record.name,
        control=_control(record),
        author=_author(record.recipe, f"the model `{record.recipe.model}` wrote itself"),
        nature="somebody's" if real else "synthetic",
        method=record.recipe.method.name,
        outcome=done.decision.outcome if done else record.outcome,
        real=_real(record, counts),
        counts="\n".join(f"- {name}: {count:,}" for name, count in counts.items()),
        writer="whoever wrote `train.real`" if real else f"`{parent}`",
        labels=_labels(record.labels),
        head=record.chain[-1]["hash"],
        entries=len(record.chain),
        recipe=to_yaml(record.recipe),
    )


def card(record: RunRecord) -> str:
    """The model card: what it came from, what was claimed, what the gate saw. It quotes the record and no model."""
    done, facts = record.final, record.facts("candidate", record.final)
    assert done is not None
    lora = facts["kind"] == "lora"
    return CARD.format(
        library="peft" if lora else "transformers",
        kind="A LoRA adapter" if lora else "A fine-tune",
        name=record.name,
        control=_control(record),
        model=record.recipe.model,
        author=_author(record.recipe, "this model wrote itself"),
        method=done.method,
        outcome=record.outcome,
        real=_real(record, done.counts),
        reason=done.decision.reason,
        warning=NOT_PROVED.get(record.outcome, ""),
        private=f"\n**{said}**\n" if (said := beside(record)) else "",
        rules="\n".join(_row(rule) for rule in done.decision.rules),
        claim=figures.claim(record.recipe.gate.primary),
        judged=DOCUMENTS if record.recipe.gate.primary.protocol == "adapt" else "questions",
        arms=_arms(record),
        audits=_audits(record),
        labels=_labels(done.labels),
        kept=f"{done.counts['kept']:,}",
        made=f"{done.counts['made']:,}",
        parent=done.parent,
        candidate=done.candidate,
        head=record.chain[-1]["hash"],
        entries=len(record.chain),
        recipe=to_yaml(record.recipe),
    )


def _arms(record: RunRecord) -> str:
    """A line per control: what else adapters learned, and what they reached on dev."""
    found = [a for a in arms(record, record.reports()) if a.name not in ("parent", "candidate")]
    return "".join(f"- Control `{a.name}` on dev ({a.meaning}): {figures.interval(a.reached, a.unit)}; this model minus"
                   f" it: {figures.changed(a.gain, a.unit)}.\n" for a in found)  # fmt: skip


def _audits(record: RunRecord) -> str:
    """A line per audit: its outcome, why, and its main figures before and after."""
    lines = []
    for audit in audits(record, record.final):
        rows = [f"{name} {figures.spanned(before)} → {figures.spanned(after)}" for name, before, after in main(audit)]
        kind, why = "decides" if audit.decides else "reports", " ".join(audit.reason.split())
        said = f"- Audit `{audit.name}` (version {audit.version}, it {kind}): **{audit.outcome}** ({why})"
        lines.append(said + (": " + "; ".join(rows) if rows else "") + ".\n")
    return "".join(lines)


def _row(rule: Rule) -> str:
    shares = ("" if v is None else figures.measure(v, rule.unit) for v in (rule.before, rule.after))
    return "| " + " | ".join((rule.name, *shares, "yes" if rule.passed else "no", rule.detail)) + " |"


def _control(record: RunRecord) -> str:
    """A paragraph that says so where the run is a control."""
    if not (said := control.said(record.recipe)):
        return ""
    digest = f" The text's digest: `{record.facts('tasks')['real text']}`." if record.recipe.control == "real" else ""
    return f"\n**{said}.** A control is there to be compared with.{digest}\n"


def _author(recipe: Recipe, itself: str) -> str:
    """Who wrote what was learned, as the cards go on with "by the method"."""
    if recipe.control == "real":
        return "stood in `train.real`, in place of what was made"
    if recipe.control == "nothing":
        return "the parent wrote unprompted, in place of what was made"
    return _writer(recipe, itself) + (", chosen at random and not" if recipe.control == "random" else "")


def _writer(recipe: Recipe, itself: str) -> str:
    who = recipe.roles.source
    if who is None:
        return itself
    name = who if isinstance(who, str) else f"{who.options['model']} at {who.options['url']}"
    if isinstance(who, Served) and who.options.get("reload"):
        return f"{itself} (served as `{name}`)"
    return f"**another model** (`{name}`) wrote for it"


def _real(record: RunRecord, counts: Mapping[str, int]) -> str:
    """What is not the model's own: real text of a file, which is somebody's."""
    if not counts.get("kept real"):
        return ""
    some = f"{counts['kept real']:,} pieces (source `real`) of the {counts['real texts']:,} texts of `train.real`"
    return f" **Real text stands beside it**: {some}, digest `{record.facts('tasks')['real text']}`."


def _labels(labels: Labels) -> str:
    used = [name for name in ("training", "selection", "gate") if getattr(labels, name)]
    return ", ".join(used) or "nothing"
