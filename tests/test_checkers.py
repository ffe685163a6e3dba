from __future__ import annotations

import hashlib
import random
from fractions import Fraction
from pathlib import Path

import pytest

from selftaught.errors import RecipeError
from selftaught.tasks._checkers import checker, guess, parse_choice, parse_exact, parse_number
from selftaught.tasks.base import Checker, TaskSet
from selftaught.types import Task


def task(question: str = "q", answer: str | None = "5", how: str = "exact") -> Task:
    return Task(({"role": "user", "content": question},), answer, how, source="q.jsonl:3")


def suite(how: Checker) -> TaskSet:
    return TaskSet((), (), (), {}, {how.name: how})


# ---------------------------------------------------------------- number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", "18"),
        ("18.00", "18"),
        ("$18", "18"),
        ("18.", "18"),
        ("0018", "18"),
        ("$1,234.50.", "1234.5"),
        ("1,000", "1000"),
        ("1,00,000 rupees", "100000"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("-$3.50", "-3.5"),
        ("$-5", "-5"),
        (r"-\$5", "-5"),
        ("-0", "0"),
        (".5", "0.5"),
        ("50%", "50"),
        ("3.", "3"),
        ("1/2", "0.5"),
        ("1/3", "1/3"),
        ("2 1/2 cups", "2.5"),
        (r"\frac{3}{4}", "0.75"),
        ("1.5e3", "1500"),
        ("#### 18 apples", "18"),
        ("####18", "18"),
        ("#### **18**", "18"),
        ("####\n18", "18"),
        ("#### Answer: 18", "18"),
        ("5 + 3 = 8\n#### 9", "9"),
        ("#### 7\nno\n#### 8", "8"),
        ("#### 8. Check: 4 + 4 = 8, and 9 is wrong", "8"),
        ("The answer is 5. But 7 is also.", "5"),
        ("Therefore, the answer (arabic numerals) is 42.", "42"),
        ("The answer is 3. No: the answer is 4.", "4"),
        (r"so \boxed{1{,}234} dollars", "1234"),
        ("16-3", "3"),
        ("17+25 = 42", "42"),
        ("he has 3 cats and 4 dogs", "4"),
        ("１８", "18"),
        ("x = 3.5.", "3.5"),
        ("12, 13", "13"),
        ("Step 1.2: 7", "7"),
        ("(5,-2)", "-2"),
        ("in 2020 100 people", "100"),
        ("1.5 100", "100"),
        ("5 1000", "1000"),
        ("7 1 1/2", "1.5"),
    ],
)
def test_number_reads(text: str, expected: str) -> None:
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "12,34",  # 1234 or 12.34?
        "0,123",
        "On 1/2/2020",
        "4/0",
        "#### apples, so 5 + 3 = 8",  # a marker without a number is no answer, whatever stands elsewhere
        "5 + 3 = 8\n#### twelve",
        "#### Step 2: add\n5 + 3 = 8",  # a heading
        "7 or 8, the answer is unknown",
        "9" * 101,
        "1.234,56",  # fragments of one longer number are not numbers
        "12.345.678",
        "3.11.2",
        "2020.01.05",
        "1 000",
        "The answer is 1 000.",
        "The answer is 1.234,56 euros.",
        "#### 3.11.2",
        "1 234 567.50",
        "1\u00a0000",
        "1\u2009000",
        "1\u202f000",
        r"\boxed{1\,000}",
        "1/2.5",
    ],
)
def test_number_refuses_to_guess(text: str) -> None:
    assert parse_number(text) is None


def test_every_way_to_write_a_number_is_the_same_vote() -> None:
    number, rng = checker("number"), random.Random(0)
    for _ in range(2000):
        value = Fraction(rng.randrange(-(10 ** rng.randint(1, 12)), 10 ** rng.randint(1, 12)), 10 ** rng.randint(0, 4))
        canonical = number.parse(f"#### {float(value):.4f}" if abs(value) < 10**6 else f"#### {int(value)}")
        value = value if abs(value) < 10**6 else Fraction(int(value))
        assert canonical is not None and Fraction(canonical) == value
        exact = f"{value.numerator * 10000 // value.denominator}"
        sign, digits = ("-", exact[1:]) if exact.startswith("-") else ("", exact)
        whole, part = digits.zfill(5)[:-4], digits.zfill(5)[-4:]
        for form in (f"{sign}{int(whole):,}.{part}", f"{sign}${int(whole):,}.{part}", f"{sign}{whole}.{part}000."):
            for text in (form, f"#### {form}", f"The answer is {form} dollars. 99"):
                assert number.parse(text) == canonical, text
        assert number.parse(canonical) == canonical and number.same(canonical, f"{sign}{int(whole):,}.{part}")


def test_number_compares_exactly() -> None:
    number = checker("number")
    assert number.same("1000", "1,000") and number.same("1000.0", "1,000") and number.same("0.5", "1/2")
    assert not number.same("0.1", "0.10000000000000001")
    assert not number.same("100000000000000000001", "100000000000000000002")
    assert not number.same("5", "five")


def test_number_is_quick_on_endless_digits() -> None:
    assert parse_number("1" * 200_000) is None
    assert parse_number("1," * 100_000 + "x") is None


# ---------------------------------------------------------------- exact, choice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  B d\tK  x\n", "b d k x"),
        ("letters: ...\n#### b d k x", "b d k x"),
        ("Let's see. The answer is Paris.", "paris"),
        ("#### ", None),
        (" \n", None),
        ("E\u0301te\u0301", "été"),
        ("Yes.", "yes"),
        ("#### Yes.", "yes"),
        ("...", None),
    ],
)
def test_exact_reads(text: str, expected: str | None) -> None:
    assert parse_exact(text) == expected


def test_exact_compares_up_to_case_and_white_space() -> None:
    exact = suite(checker("exact"))
    assert exact.check(task(answer="B  d"), "b d") == ("b d", True)
    assert exact.check(task(answer="b d"), "x d") == ("x d", False)
    assert exact.check(task(answer=None), "b d") == ("b d", False)


@pytest.mark.parametrize("gold", ["Yes.", "yes", "The answer is yes."])
@pytest.mark.parametrize("text", ["The answer is yes.", "Yes.", "YES", "#### yes."])
def test_exact_compares_without_the_closing_dot_on_either_side(gold: str, text: str) -> None:
    assert suite(checker("exact")).check(task(answer=gold), text) == ("yes", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. Paris", "B"),
        ("#### B", "B"),
        ("the answer is B", "B"),
        ("The answer is (b).", "B"),
        ("The answer is b.", "B"),
        ("Answer: C", "C"),
        ("The answer is option D because", "D"),
        (r"\boxed{\text{C}}", "C"),
        ("(A) is wrong, so (C)", "C"),
        ("The answer is (A). Not (B).", "A"),
        ("the answer is a cat", None),
        ("The answer is I don't know", None),
        ("The answer is I. Not J", "I"),
        ("The answer is I", "I"),
        ("Because of it", None),
        ("", None),
    ],
)
def test_choice_reads(text: str, expected: str | None) -> None:
    assert parse_choice(text) == expected


def test_choice_compares_letters() -> None:
    assert checker("choice").same("B", "(b)") and not checker("choice").same("B", "C")


# ---------------------------------------------------------------- regex


def test_regex_takes_the_last_match_and_group_1() -> None:
    regex = checker("regex", r"ANSWER: (\w+)")
    assert regex.parse("ANSWER: one ANSWER: two") == "two"
    assert regex.parse("two") is None
    assert regex.same("two", "TWO") and regex.same("two", "ANSWER: two")
    assert checker("regex", r"\d+").parse("1 22 333") == "333"


def test_regex_needs_a_pattern_that_compiles() -> None:
    with pytest.raises(RecipeError, match="needs a pattern") as missing:
        checker("regex")
    assert "tasks.pattern=" in missing.value.hint
    with pytest.raises(RecipeError, match=r"tasks\.pattern '\(' is not a regular expression: missing \)"):
        checker("regex", "(")
    with pytest.raises(RecipeError, match="only goes with the checker 'regex', not with 'number'"):
        checker("number", "x")


# ---------------------------------------------------------------- any


def test_any_reads_a_number_else_what_is_stated_else_the_text() -> None:
    anything = checker("any")
    said = ["5 + 3 = 8", "First this.\nThe answer is Paris.", "Then that.\n#### Paris", "Paris"]
    assert [anything.parse(text) for text in said] == ["8", "paris", "paris", "paris"]
    assert anything.same("8", "8.0") and anything.same("paris", "Paris.") and not anything.same("paris", "Rome")


# ---------------------------------------------------------------- a user's function


def write(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(body)
    return f"{folder / 'mine.py'}:reward"


def test_a_users_function_decides_what_is_correct(tmp_path: Path) -> None:
    body = "def reward(completions, answer, **row):\n    return [float(a in c) for c, a in zip(completions, answer)]\n"
    mine = checker(write(tmp_path, body))
    tasks = suite(mine)
    assert tasks.check(task(answer="five", how=mine.name), "five or 6") == ("6", True)
    assert tasks.check(task(answer="seven", how=mine.name), "five or 6") == ("6", False)
    assert mine.parse("no number: Paris") == "no number: paris"


def test_a_users_function_gets_the_arguments_it_names_and_half_is_correct(tmp_path: Path) -> None:
    body = "def reward(completions, prompts):\n    assert prompts[0][0]['content'] == 'q'\n    return [0.5]\n"
    mine = checker(write(tmp_path, body))
    assert suite(mine).check(task(answer=None, how=mine.name), "x") == ("x", True)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("[1.0, 2.0]", "ValueError: 2 scores for 1 completion"),
        ("[float('nan')]", "ValueError: the score is nan"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("[None]", "TypeError"),
    ],
)
def test_a_users_function_that_fails_is_named(tmp_path: Path, returned: str, reason: str) -> None:
    mine = checker(write(tmp_path, f"def reward(completions, **row):\n    return {returned}\n"))
    with pytest.raises(RecipeError, match=r"mine\.py:reward failed on q\.jsonl:3: " + reason):
        suite(mine).check(task(how=mine.name), "x")


def test_the_digest_of_a_users_function_changes_with_its_file_alone(tmp_path: Path) -> None:
    body = "def reward(completions):\n    return [1.0]\n"
    first, again = checker(write(tmp_path, body)).digest, checker(write(tmp_path, body)).digest
    assert first == again == hashlib.sha256(body.encode()).hexdigest()
    assert checker(write(tmp_path, body.replace("1.0", "0.0"))).digest != first
    assert checker("number").digest == checker("regex", "x").digest == "", "a built-in checker is not a user's file"


def test_a_users_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.py is not a Python file here") as missing:
        checker("nowhere.py:reward")
    assert missing.value.hint == "Write tasks.checker=path/to/file.py:function."
    name = write(tmp_path, "def rewards(completions, **row): ...\n")
    with pytest.raises(RecipeError, match="has no function 'reward'; did you mean 'rewards'"):
        checker(name)
    with pytest.raises(
        RecipeError, match=r"mine\.py cannot be loaded \(ModuleNotFoundError: No module named 'nope_x'\)"
    ):
        checker(write(tmp_path, "import nope_x\n"))


# ---------------------------------------------------------------- by name, by guess


def test_an_unknown_checker_is_met_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="There is no checker 'numbre'; did you mean 'number'") as error:
        checker("numbre")
    assert "path/to/file.py:function" in error.value.hint


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["18", "$1,000.50", "-3", "50%", "1/2", "−7"], "number"),
        (["A", "(b)", "C."], "choice"),
        (["18", "Paris"], "exact"),
        (["18 apples", "3 pears"], "exact"),
        (["12,34", "5"], "exact"),
        (["b d k x"], "exact"),
        (["1.234,56", "5"], "exact"),
        (["1.234.567", "5"], "exact"),
        (["1 000", "5"], "exact"),
        ([], "any"),
    ],
)
def test_guess(answers: list[str], expected: str) -> None:
    assert guess(answers) == expected
