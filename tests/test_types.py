"""The nouns: frozen, equal ids for equal things, nothing of ours imported, errors drawn as they are."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any, get_args

import pytest

from selftaught import errors, types
from selftaught.types import (
    Checkpoint,
    Decision,
    Example,
    Labels,
    Metric,
    Report,
    Rollout,
    Round,
    Rule,
    Sampling,
    Task,
    Verdict,
)


def ask(question: str, **other: Any) -> Task:
    return Task(({"role": "user", "content": question},), **other)


def rollout(**changed: Any) -> Rollout:
    plain: dict[str, Any] = {
        "task_id": "t",
        "index": 0,
        "author": "a",
        "tokenizer": "k",
        "prompt_ids": (1,),
        "completion_ids": (2, 3),
        "logprobs": (-0.5, -0.25),
        "text": "x",
        "seed": 7,
    }
    return Rollout(**plain | changed)


def test_canonical_json_is_sorted_tight_and_utf8() -> None:
    assert types.canonical({"b": 1, "a": "é\n"}) == '{"a":"é\\n","b":1}'.encode()


def test_a_lone_surrogate_survives() -> None:
    assert json.loads(types.canonical("\ud83d")) == "\ud83d", "model text may hold half of a pair"


def test_not_a_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        types.canonical(float("nan"))


def test_the_digest_does_not_move() -> None:
    expected = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert types.digest() == expected, "SHA-256 of [] is known"
    assert types.content_id() == expected[:16]


def test_an_id_is_the_same_in_another_process() -> None:
    code = "from selftaught.types import Task; print(Task(({'role': 'user', 'content': 'ünï'},)).id)"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
    )
    assert other.stdout.strip() == ask("ünï").id


def test_a_seed_is_63_bits_and_depends_on_every_part() -> None:
    seeds = [types.seed_for(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, ("a",)), (0, "a0")]]
    assert len(set(seeds)) == len(seeds), "each part counts, and so does how they are grouped"
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert types.seed_for(0, "a") == seeds[0]


def test_nouns_are_frozen() -> None:
    metric = Metric(0.5, 10, 0.2, 0.8)
    nouns = [
        ask("q"),
        rollout(),
        Example((1,), (2,), "x"),
        Verdict("s", "filter:x", ok=True),
        Sampling(),
        metric,
        Checkpoint("d", "m"),
        Report("evaluation", "s", "d", "dev"),
        Rule("gain", 0.1, 0.2, True),
        Decision("accepted", ()),
        Labels(),
        Round(0, "p", None, Decision("rejected", ()), {}, Labels(), "m"),
    ]
    for noun in nouns:
        first = dataclasses.fields(noun)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError, match=first):
            setattr(noun, first, None)


def test_a_task_is_its_prompt_and_form() -> None:
    assert ask("q").id == ask("q", answer="4", split="dev", group="g", source="s", checker="number").id
    assert ask("q").id != ask("r").id
    assert ask("q").id != ask("q", form="plain").id


def test_the_question_is_the_last_thing_the_user_said() -> None:
    turns = (
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    )
    assert Task(turns).question == "three"
    assert Task(()).question == "", "a prompt-free task has no question"


def test_a_rollout_is_who_said_what_to_which_task_with_which_seed() -> None:
    assert rollout().id == rollout(text="y", answer="4", logprobs=(0.0, 0.0)).id
    for changed in ({"task_id": "u"}, {"index": 1}, {"author": "b"}, {"seed": 8}, {"completion_ids": (2,)}):
        assert rollout().id != rollout(**changed).id, changed


def test_an_example_is_what_is_learned() -> None:
    plain = Example((1,), (2,), "x")
    assert plain.id == Example((1,), (2,), "y", source="z").id
    assert plain.id == Example((1,), (2,), "x", weight=1).id, "1 and 1.0 are one weight"
    others = [
        Example((1, 2), (), "x"),
        Example((1,), (2,), "x", weight=-1.0),
        Example((1,), (2,), "x", loss="dpo"),
        Example((1,), (2,), "x", rejected_ids=(3,)),
        Example((1,), (2,), "x", parents=("r",)),
    ]
    assert len({plain.id, *(other.id for other in others)}) == 6


def test_outcomes_are_listed_once() -> None:
    assert get_args(types.Outcome) == types.OUTCOMES


def test_a_noun_becomes_plain_json() -> None:
    decision = Decision("accepted", (Rule("gain", 0.1, 0.2, True),))
    done = Round(0, "p", "c", decision, {"kept": 3}, Labels(gate=True), "m")
    plain = types.as_json(done)
    assert plain["decision"]["rules"] == [
        {"name": "gain", "before": 0.1, "after": 0.2, "passed": True, "detail": "", "unit": "share"}
    ]
    assert plain["labels"] == {"training": False, "selection": False, "gate": True}
    assert plain["counts"] == {"kept": 3}


def test_groups_keep_the_order_of_tasks_and_the_empty_ones() -> None:
    a, b, c = ask("a"), ask("b"), ask("c")
    rows = [rollout(task_id=c.id), rollout(task_id=a.id), rollout(task_id=a.id, index=1)]
    grouped = types.groups_of([a, b, c], rows)
    assert [(t.question, [r.index for r in rs]) for t, rs in grouped] == [("a", [0, 1]), ("b", []), ("c", [0])]


def test_a_rollout_of_an_unknown_task_is_not_lost_in_silence() -> None:
    with pytest.raises(KeyError, match="stranger"):
        types.groups_of([ask("a")], [rollout(task_id="stranger")])


def test_what_sampling_had_no_field_for_is_not_in_its_memo_keys_unless_it_is_set() -> None:
    """repr(sampling) names a run's units, so runs that set neither field go on under the names they began with."""
    old = "Sampling(n=3, temperature=0.7, top_p=1.0, top_k=0, max_tokens=9, stop=('\\n',))"
    plain = Sampling(3, 0.7, max_tokens=9, stop=("\n",))
    assert repr(plain) == old
    assert repr(dataclasses.replace(plain, min_tokens=2)) == old[:-1] + ", min_tokens=2)"
    guided = dataclasses.replace(plain, guide=types.Guide("regex", "[0-9]+"))
    assert repr(guided) == old[:-1] + ", guide=Guide(kind='regex', text='[0-9]+'))"
    assert len({plain, guided, dataclasses.replace(guided, guide=types.Guide("lark", "[0-9]+"))}) == 3, (
        "hashable, and all different"
    )


# ---------------------------------------------------------------- errors


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = dict(re.findall(r"(\w+)\s+exit code (\d+)", errors.__doc__ or ""))
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert drawn == {k.__name__: str(k.exit_code) for k in kinds}  # type: ignore[attr-defined]


def test_an_error_says_what_to_type_next_and_travels_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(errors.DataError("No questions.", hint="Try: selftaught init")))
    assert str(error) == "No questions.\n  Try: selftaught init"
    assert (type(error), error.exit_code) == (errors.DataError, 2)


def test_the_version_is_that_of_the_package() -> None:
    import tomllib
    from pathlib import Path

    import selftaught
    from selftaught.types import VERSION

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert selftaught.__version__ == VERSION == project["version"]
