"""Language: off by default, sure before it rejects, and a recipe that cannot be used says so before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import small
from selftaught import loop
from selftaught.config import CurateConfig
from selftaught.errors import RecipeError
from selftaught.filters.base import Context
from selftaught.filters.language import Language
from selftaught.types import Example

GERMAN = "Wir müssen zuerst die beiden Zahlen addieren, dann haben wir das Ergebnis."
ENGLISH = "We have to add the two numbers first, and then we have the result."
CHINESE = "火车八点出发，中午到达北京，我们需要先把两个数字加起来，然后再计算答案。"


def language(*languages: str) -> Language:
    return Language(Context(CurateConfig(languages=list(languages)), ()))


def example(text: str) -> Example:
    return Example((1,), (2,), text)


def test_another_language_is_rejected_with_its_name_and_how_sure_that_is() -> None:
    assert language("en").reason(example(GERMAN)) == "its language is de (100% sure), not en (curate.languages)"
    reason = language("en", "fr").reason(example(CHINESE))
    assert reason is not None and reason.startswith("its language is zh (") and "not en or fr" in reason


@pytest.mark.parametrize("text", [GERMAN, ENGLISH])
def test_any_language_of_the_list_is_kept(text: str) -> None:
    assert language("en", "de").reason(example(text)) is None


def test_off_by_default_every_language_is_kept() -> None:
    assert [language().reason(example(text)) for text in (GERMAN, ENGLISH, CHINESE)] == [None] * 3


@pytest.mark.parametrize(
    "text",
    [
        "Das ist die Summe: 42",
        "17+25=42\n" * 9,
        "\\frac{1}{2} x^2 + \\sin(x) = \\int_0^1",
        "Ana Müller 3*2 Olaf Weng",
    ],
    ids=["under twenty letters", "numbers", "a formula", "names and numbers"],
)
def test_what_tells_too_little_is_kept(text: str) -> None:
    assert language("fr").reason(example(text)) is None


def test_an_unknown_language_is_an_error_of_the_recipe_before_anything_is_sampled() -> None:
    with pytest.raises(RecipeError, match=r"curate\.languages: there is no 'eng'; did you mean 'en'\?") as found:
        loop.plan(small.recipe("curate.languages=[de,eng]"))
    assert "such as [en, de]" in found.value.hint


WITHOUT = """
import sys
sys.modules["py3langid"] = None  # as if it were not installed
import small
from selftaught import loop
from selftaught.errors import RecipeError
loop.plan(small.recipe())
try:
    loop.plan(small.recipe("curate.languages=[en]"))
except RecipeError as error:
    print(error)
"""


def test_without_its_package_the_recipe_says_what_to_install(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "curate.languages needs py3langid, which is not installed.",
        "  pip install 'selftaught[language]'",
    ], done.stderr
