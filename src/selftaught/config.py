"""A recipe: YAML with dotted overrides, checked before anything runs. An unknown key is an error with "did you mean".

The sections ``method``, ``tasks`` and ``engine`` name a member of a family (``name:``); the other keys of the section
are that member's own options, checked by the member's ``Options`` when load.py makes it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from selftaught.errors import RecipeError
from selftaught.strict_yaml import read_yaml, write_yaml
from selftaught.types import digest

ENGINE = "torch_engine"  # where a recipe names none
INSTEAD = {  # generated tasks -> what reads one's own
    None: "jsonl",
    "world_sums": "jsonl",
    "world_people": "passages",
    "world_planted": "jsonl",
}
REAL_SHARE = 0.1  # of real text, where a recipe names some: Shumailov et al. 2024 (docs/RECIPES.md)
Control = Literal["base", "passage", "in_context", "retrieval", "editor", "oracle", "random_edits"]
Marker = Annotated[str, Field(min_length=1)]  # of thoughts


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Member(BaseModel):
    """A section that names a family member; its other keys are checked by that member."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Served(Member):
    """A server in a role; its keys are checked by engines/endpoint.py."""

    name: Literal["endpoint"] = "endpoint"


class RolesConfig(Section):
    """Who stands in for the student: a model, named as ``model`` is, or a server. None: the student itself."""

    source: str | Served | None = None  # writes what is learned from
    editor: str | Served | None = None
    labeller: str | Served | None = None
    judge: str | Served | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _model_or_server(cls, who: Any) -> Any:
        server = isinstance(who, dict) and who.get("name", "endpoint") == "endpoint"
        if server or isinstance(who, str | Served | None):
            return who
        raise ValueError("name a model, or give a server with url and model")

    @property
    def given(self) -> dict[str, str | Served]:
        return {name: who for name in type(self).model_fields if (who := getattr(self, name)) is not None}


class QuestionsConfig(Section):
    """Questions about documents that came without any: the labeller writes them before the first round."""

    per_document: int = Field(default=5, ge=0, le=50)  # at most; 0: nobody writes any
    max_tokens: int = Field(default=512, ge=1)  # of the questions about one document


class PromptConfig(Section):
    """How a question becomes a prompt. A tokenizer's own chat template wins; ``format`` is for models without one."""

    use_chat_template: bool = True
    format: str = "Q: {question}\nA:"
    step_by_step: str = "Let's think step by step."  # Kojima et al. 2022, the trigger LMSI uses
    thinking: bool | None = None  # the chat template's own switch (enable_thinking); none: as the template has it
    think: tuple[Marker, Marker] | Literal["auto", "off"] = "auto"  # what opens and closes thoughts


class CurateConfig(Section):
    max_tokens: int = Field(default=1024, ge=1)  # longer examples are rejected, with the reason
    private_span: int = Field(default=50, ge=0)  # tokens in a row of a private text that reject an example; 0: none do
    max_repetition: float = Field(default=0.6, gt=0, le=1)  # share of text that repeats earlier 20-character spans
    overlap_ngram: int = Field(default=13, ge=5)  # words; GPT-3 and lm-eval use 13
    duplicate_jaccard: float = Field(default=0.8, ge=0.7, le=1)  # of word 5-grams; from here on a near-duplicate
    languages: list[str] = []  # ISO 639-1 codes; empty: any language


class TrainConfig(Section):
    """One update. ``auto`` values are settled from the model's size before the run and recorded (docs/RECIPES.md)."""

    kind: Literal["auto", "lora", "full"] = "auto"
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    epochs: float = Field(default=2.0, gt=0)
    steps: int | None = Field(default=None, ge=1)  # instead of epochs: exactly so many optimizer steps
    batch_tokens: int = Field(default=4096, ge=64)  # tokens in one optimizer step
    warmup: float = Field(default=0.05, ge=0, le=1)  # share of steps
    min_lr_share: float = Field(default=0.05, ge=0, le=1)  # where the cosine ends
    clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    start: Literal["parent", "base"] = "parent"  # base: again from the first model, on all accepted rounds' examples
    replay: float = Field(default=0.0, ge=0, le=1)  # share of the examples that are the base's own unprompted text
    replay_samples: int = Field(default=2000, ge=1)  # how many such texts are sampled
    replay_max_tokens: int = Field(default=128, ge=1)
    real: str | None = None  # a file of real text that is learned from in every update; read as gate.text is
    real_share: float = Field(default=REAL_SHARE, gt=0, lt=1)  # share of the examples that are such text
    pack: int = Field(default=0, ge=0)  # join unprompted texts to sequences of at most so many tokens; 0: each alone
    checkpoints: int = Field(default=1, ge=1, le=100)  # judged on dev, at equal distances; the best is the candidate
    min_change: float = Field(default=0.0, ge=0)  # nats per token by which it must differ from its parent: see change
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: int = Field(default=32, ge=1)

    @property
    def shares(self) -> dict[str, float]:
        """Source of the examples that no method made -> their share of all; replay of 1 leaves no room for others."""
        return {"replay": self.replay, "real": self.real_share if self.real is not None and self.replay < 1 else 0.0}

    @model_validator(mode="after")
    def _shares_fit(self) -> TrainConfig:
        if self.real is None and self.real_share != REAL_SHARE:
            raise ValueError("real_share is a share of the text in a file, and there is none: set real too")
        if self.replay < 1 and sum(self.shares.values()) > 1 - 1e-6:
            raise ValueError(f"replay {self.replay:g} and real_share {self.real_share:g} leave no room for what the "
                             "method makes: together they must be below 1")  # fmt: skip
        return self


class TrialConfig(Section):
    """A throw-away adapter: how it learns (LoRA, AdamW) and how it is asked. Defaults: SEAL (arXiv 2506.10943, B.2)."""

    lora_rank: int = Field(default=32, ge=1)
    lora_alpha: int = Field(default=64, ge=1)
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")  # []: all linear layers
    lr: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=1, ge=1)  # texts in an optimizer step
    min_lr_share: float = Field(default=0.0, ge=0, le=1)  # where the cosine ends
    clip: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    seeds: int = Field(default=1, ge=1)  # adapters per edit where a model is judged


class GuardConfig(Section):
    """Non-inferiority: the candidate may lose at most ``margin`` on this suite (of texts: nats per token)."""

    suite: str
    margin: float = Field(default=0.03, gt=0, lt=1)


class PrimaryConfig(Section):
    """The claim of a run, declared before it: what is measured on dev and vault, which way is better, how it is tested.

    ``accuracy``: right or wrong by the checker. ``score``: the mean of what the checker's function returns. ``loglik``:
    natural-log probability per token of the gold answer, with nothing sampled.

    ``protocol``: "direct" asks the model. "adapt" lets it write an edit of each held-out document, trains a throw-away
    adapter on that, and asks the adapter, without the document.
    """

    protocol: Literal["direct", "adapt"] = "direct"
    metric: Literal["accuracy", "score", "loglik"] = "accuracy"
    direction: Literal["up", "down"] = "up"
    test: Literal["auto", "mcnemar", "sign_flip", "bootstrap"] = "auto"
    margin: Annotated[float, Field(gt=0)] | None = None  # the claim is then that less than this is lost, not a gain

    @property
    def per_question(self) -> bool:
        """Whether every question is right or wrong by itself, so that what a holdout can show is known before."""
        return self.metric == "accuracy" and self.protocol == "direct"

    @model_validator(mode="after")
    def _fits(self) -> PrimaryConfig:
        if self.protocol == "adapt" and self.metric == "score":
            raise ValueError("an adapter is asked for accuracy or loglik, not for a score")
        if self.margin is not None and self.metric == "accuracy" and self.margin >= 1:
            raise ValueError("margin is a share of the questions, such as 0.03, unless the metric is another")
        if self.test != "auto" and self.margin is not None:
            raise ValueError(f"{self.test} is a test for a gain; with a margin leave test at auto")
        if self.test == "mcnemar" and self.metric != "accuracy":
            raise ValueError(
                f"mcnemar counts right and wrong, which {self.metric} has not; take sign_flip or bootstrap"
            )
        return self


class GateConfig(Section):
    primary: PrimaryConfig = PrimaryConfig()
    alpha: float = Field(default=0.05, ge=1e-9, lt=1)
    looks: int = Field(default=3, ge=1)  # K looks at a vault, each at alpha / K
    min_gain: float = Field(default=0.05, gt=0)  # of the metric; a holdout too small to show it ends "unproven"
    guards: list[GuardConfig] | Literal["auto"] = "auto"  # auto: every suite the tasks bring, and the text guards
    controls: tuple[Control, ...] = ()  # with protocol adapt: what else the adapters of dev's documents learn from
    text: str | None = None  # a file of real text for the guard "text"; none: dev's documents, or dev as asked
    text_items: int = Field(default=1000, ge=0)  # texts at most in each text guard; 0 switches both off

    @model_validator(mode="after")
    def _fits(self) -> GateConfig:
        if self.primary.metric == "accuracy" and self.min_gain >= 1:
            raise ValueError(
                "min_gain is a share of the questions, such as 0.05, unless gate.primary.metric is another"
            )
        return self


class ReviewConfig(Section):
    """People judge kept examples before anything is trained on them. None is asked by default."""

    who: Literal["none", "sample", "all"] = "none"
    size: int = Field(default=50, ge=1)  # of a sample
    max_rejected: float = Field(default=0.1, ge=0, le=1)  # of a sample; a larger share refuses the whole batch


class PromotionConfig(Section):
    people: int = Field(default=1, ge=1, le=9)  # different people who approve before a proved model is the champion


class WatchConfig(Section):
    """The envelope of ``selftaught watch``: declared before, and never widened by what arrives."""

    min_questions: int = Field(default=20, ge=1)  # new ones that make a run worth while
    runs: int = Field(default=10, ge=1)  # at most so many
    looks: int | None = Field(default=None, ge=1)  # it ends when so many looks at the vault are spent; none: gate.looks
    seconds: float = Field(default=10.0, gt=0)  # between two glances at the folder


class BudgetConfig(Section):
    minutes: float | None = Field(default=None, gt=0)
    train_share: float = Field(default=1.0, gt=0, le=1)  # settled from minutes; may also be set by hand
    holdout_share: float = Field(default=1.0, gt=0, le=1)
    money: float | None = Field(default=None, gt=0)  # what servers may cost at most, in the currency of their prices


class Recipe(Section):
    name: str = Field(default="self_consistency", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    model: str = "bundled:sums"
    roles: RolesConfig = RolesConfig()
    seed: int = Field(default=0, ge=0, lt=2**31)
    rounds: int = Field(default=1, ge=1, le=1000)  # at most
    patience: int = Field(default=1, ge=1)  # the run ends after so many rounds in a row that were not accepted
    round_questions: int | None = Field(default=None, ge=1)  # training questions of a round; none: all, every round
    control: Literal["none", "random", "real", "nothing"] = "none"  # learned in place of what the method makes
    method: Member
    tasks: Member
    questions: QuestionsConfig = QuestionsConfig()
    prompt: PromptConfig = PromptConfig()
    curate: CurateConfig = CurateConfig()
    train: TrainConfig = TrainConfig()
    trial: TrialConfig = TrialConfig()
    gate: GateConfig = GateConfig()
    private: str | None = None  # a file or folder of texts that must not come out of a model again: see private.py
    audits: dict[str, dict[str, Any]] = {}  # of a round's candidate, by name: options of its member in audits/
    review: ReviewConfig = ReviewConfig()
    promotion: PromotionConfig = PromotionConfig()
    watch: WatchConfig = WatchConfig()
    engine: Member = Member(name=ENGINE)
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _change_is_seen(self) -> Recipe:
        if self.train.min_change and not self.gate.text_items:
            raise ValueError("train.min_change is measured on the texts of the text guards, and gate.text_items is 0")
        return self

    @property
    def digest(self) -> str:
        """Names what runs. Values left at their defaults do not count, so a new option does not rename old recipes."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))


# ---------------------------------------------------------------- overrides and checking


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``key.sub=value`` onto a recipe's dictionary; values are YAML scalars or lists.

    Naming another member (``tasks.name=...``) drops the old member's options, which the new one would not know;
    ``tasks.path=FILE`` on a recipe whose tasks are generated means "my file instead", so it does the same, and names
    the member that reads such files. What is held out (``hold``) stays as the recipe has it; the control ``oracle``
    goes, since only a generated world knows perfect edits.
    """
    parsed: list[tuple[list[str], Any]] = []
    for item in overrides:
        key, sign, value = item.removeprefix("--").partition("=")
        if not sign or not key:
            raise RecipeError(f"{item!r} is not an override.", hint="Write key=value, for example train.lr=1e-4.")
        parsed.append((key.split("."), read_yaml(value, item) if value else None))
    data = copy.deepcopy(data)
    _drop_options(data, {".".join(path): value for path, value in parsed})
    for path, value in parsed:
        target = data
        for part in path[:-1]:
            if target.get(part) is None:
                target[part] = {}
            if not isinstance(target[part], dict):
                raise RecipeError(
                    f"{'.'.join(path)}: {part!r} is a value, not a section.",
                    hint="See the sections in: selftaught recipes",
                )
            target = target[part]
        target[path[-1]] = value
    if isinstance(data.get("engine"), dict):
        data["engine"].setdefault("name", ENGINE)
    return data


def _drop_options(data: dict[str, Any], values: Mapping[str, Any]) -> None:
    for section in ("method", "tasks", "engine"):
        name = values.get(f"{section}.name")
        if name is not None and name != _option(data, section, "name"):
            data[section] = {}
    tasks = data.get("tasks") or {}
    generated = isinstance(tasks, dict) and not tasks.get("path") and tasks.get("name") in [*INSTEAD]
    if "tasks.path" in values and "tasks.name" not in values and generated:
        data["tasks"] = {"name": INSTEAD[tasks.get("name")], **{k: v for k, v in tasks.items() if k == "hold"}}
        controls = _option(data, "gate", "controls")
        if isinstance(controls, list):
            data["gate"]["controls"] = [c for c in controls if c != "oracle"]


def _option(data: Mapping[str, Any], section: str, key: str) -> Any:
    found = data.get(section)
    return found.get(key) if isinstance(found, dict) else None


def check(model: type[BaseModel], data: Mapping[str, Any], where: str) -> Any:
    """``model.model_validate`` with errors a person can act on."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, item, where) for item in error.errors()]
        raise RecipeError("\n".join(lines), hint="Mend the recipe or the override, then run again.") from error


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    path = [str(p) for p in item["loc"] if "[" not in str(p)]  # not pydantic's "list[GuardConfig]"
    name = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}{did_you_mean(str(item['loc'][-1]), _fields_at(model, path[:-1]))}"
    if item["type"] == "missing":
        return f"{where}: {name!r} is missing."
    got = "" if path[-1:] == ["key_env"] else f" (got {item['input']!r})"  # what stands there may be a key
    return f"{where}: {name}: {item['msg']}{got}"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        if part in model.model_fields:
            model = next(iter(_models_in(model.model_fields[part].annotation)), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as ``list[GuardConfig] | Literal["auto"]`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models_in(part)]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}."


def parse_recipe(text: str, where: str, overrides: Sequence[str] = ()) -> Recipe:
    data = read_yaml(text, where)
    if not isinstance(data, dict):
        raise RecipeError(f"{where} is not a recipe.", hint="A recipe is a YAML mapping; see: selftaught recipes")
    recipe = check(Recipe, apply_overrides(data, overrides), where)
    assert isinstance(recipe, Recipe)
    return recipe


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file with overrides applied. Raises RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"Cannot read the recipe {path}: {why}.", hint="See: selftaught recipes") from error
    return parse_recipe(text, str(path), overrides)


def to_yaml(recipe: Recipe) -> str:
    return write_yaml(recipe.model_dump(mode="json"))
