"""What is left to ``auto`` is decided once, from the model and the machine, and written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import small
from selftaught.config import Member, parse_recipe, to_yaml
from selftaught.engines.scripted import Scripted
from selftaught.errors import ModelError
from selftaught.settle import settle
from selftaught.types import Checkpoint


class Sized(Scripted):
    """A scripted model that claims a size and a machine."""

    def __init__(self, parameters: float) -> None:
        super().__init__(Scripted.Options())
        self.parameters = int(parameters)

    def describe(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        machine = {"device": "cpu", "dtype": "float32", "threads": 6, "processes": 6, "autocast": False}
        return {**super().describe(checkpoint), **machine, "parameters": self.parameters}


@pytest.mark.parametrize(
    ("parameters", "kind"), [(8e5, "full"), (1.9e7, "full"), (2e7, "lora"), (6e8, "lora"), (7e9, "lora")]
)
def test_the_kind_follows_the_size_and_both_are_said(parameters: float, kind: str) -> None:
    settled, notes = settle(small.recipe(), Sized(parameters))
    assert (settled.train.kind, settled.train.lr) == (kind, 2e-4)
    assert notes == (f"train.kind: {kind} ({int(parameters):,} parameters)", "train.lr: 0.0002")


def test_what_the_recipe_says_stays() -> None:
    settled, notes = settle(small.recipe("train.kind=lora", "train.lr=5e-5"), Sized(8e5))
    assert (settled.train.kind, settled.train.lr, notes) == ("lora", 5e-5, ())


def test_settling_twice_changes_nothing() -> None:
    settled, _ = settle(small.recipe(), Sized(8e5))
    assert settle(settled, Sized(8e5)) == (settled, ())
    assert parse_recipe(to_yaml(settled), "again") == settled


def test_the_machines_choices_are_recorded_for_a_resume() -> None:
    asked = small.recipe().model_copy(update={"engine": Member.model_validate({"name": "torch_engine", "threads": 3})})
    settled, _ = settle(asked, Sized(8e5))
    options = settled.engine.options
    assert {k: options[k] for k in ("processes", "dtype", "device")} == {
        "processes": 6,
        "dtype": "float32",
        "device": "cpu",
    }
    assert options["threads"] == 3, "what the recipe says stays"
    assert options["autocast"] is False
    assert "max_rows" not in options, "only what was auto"


def test_a_model_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(ModelError, match="not a scripted model"):
        settle(small.recipe("model=nowhere"), Scripted(Scripted.Options()))
