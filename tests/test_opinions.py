"""Who says whether a passage supports a statement, an answer is right, an edit good: the world, a judge, or nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import papers
import test_selfedit as runs
from selftaught.config import TrialConfig
from selftaught.engines.base import Completion, Request
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.methods import _proxy
from selftaught.methods.base import Trial
from selftaught.methods.selfedit import Selfedit
from selftaught.opinions import Opinions
from selftaught.roles import Role
from selftaught.tasks._checkers import checker
from selftaught.tasks._graders import accepting
from selftaught.trial import Tryer
from selftaught.types import Checkpoint, Document, Task

TEA = Document("tea", "Tea is a hot drink. Its colour is green.", "Tea")


class Saying(Scripted):
    """Replies with the first of ``replies`` whose key stands in the prompt; counts what it was asked."""

    class Options(Scripted.Options):
        pass

    def __init__(self, **replies: str) -> None:
        super().__init__(Scripted.Options())
        self.replies, self.prompts = replies, list[str]()

    def generate(self, requests: Sequence[Request], **how: Any) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            prompt = ByteTokens(0).decode(request.prompt_ids)
            self.prompts.append(prompt)
            text = next((said for key, said in self.replies.items() if key in prompt), "hm")
            ids = ByteTokens(0).encode_completion(text)
            yield index, [Completion(ids, (-0.1,) * len(ids), "stop")]


def judge(**replies: str) -> tuple[Role, Saying]:
    engine = Saying(**replies)
    return Role("judge", engine, Checkpoint("judge", "judge"), engine.tokens(Checkpoint("judge", "judge"))), engine


def test_a_world_knows_and_nobody_else_is_asked() -> None:
    source = replace(papers.world(), supports=lambda text, document: "supported" if text in document.text else None)
    role, engine = judge()
    found = Opinions(source, role, 0).support([("Tea is a hot drink.", TEA), ("Tea is cold.", TEA)])
    assert found == ["supported", None]
    assert engine.prompts == []


def test_elsewhere_the_judge_is_asked_each_thing_once() -> None:
    role, engine = judge(**{"It is hot!": "Supported.", "It is blue.": "contradicted", "It is cheap.": "who knows"})
    opinions = Opinions(papers.world(), role, 0)
    pairs = [("It is hot!", TEA), ("It is blue.", TEA), ("It is cheap.", TEA), ("It is hot!", TEA)]
    expected = ["supported", "contradicted", None, "supported"]
    assert opinions.support(pairs) == expected
    assert opinions.support(pairs[:2]) == expected[:2]
    assert len(engine.prompts) == 3


def test_without_a_judge_there_is_no_opinion() -> None:
    opinions = Opinions(papers.world(), None, 0)
    assert opinions.support([("It is hot.", TEA)]) == [None]
    assert opinions.marks([(TEA, "It is hot.")]) == [None]
    assert opinions.settled([(Task(({"role": "user", "content": "Hot?"},), "yes"), "yes")]) == [None]


def test_marks_are_read_from_a_judges_reply() -> None:
    role, _ = judge(**{"green leaves": "length: 5\ndiversity: 3\nquality: 4\ncorrectness: 5", "x": "good"})
    assert Opinions(papers.world(), role, 0).marks([(TEA, "green leaves"), (TEA, "x")]) == [13 / 16, None]


# ---------------------------------------------------------------- disputes between answers


def tried(role: Role | None, answers: dict[str, str], *others: str) -> list[float]:
    """Whether these answers to questions whose gold is "Marie Curie", or one of ``others``, count as right."""
    source = replace(papers.world(train=1), checkers={"recall": accepting(checker("recall"), {"": others})})
    engine = Saying(**{f"question {i}": answer for i, answer in enumerate(answers.values())})
    tokens = engine.tokens(Checkpoint("m", "scripted:0.5"))
    method = Selfedit(Selfedit.Options())
    asked = tuple(
        Task(({"role": "user", "content": f"question {i}"},), "Marie Curie", "recall") for i in range(len(answers))
    )

    class Asked(Saying):
        class Options(Scripted.Options):
            pass

        def _complete(self, request: Request, seed: int, mind: Any = None) -> Completion:
            prompt = ByteTokens(0).decode(request.prompt_ids)
            text = next(said for key, said in engine.replies.items() if key in prompt)
            ids = ByteTokens(0).encode_completion(text)
            return Completion(ids, (-0.1,) * len(ids), "stop")

    tryer = Tryer(Asked(), tokens, method, source, TrialConfig(), 0, judge=role)
    [rows] = tryer.run(Checkpoint("m", "scripted:0.5"), [Trial((), asked)])
    return [r.right for r in rows]


ANSWERS = {
    "all": "Marie Curie",
    "half": "Curie",
    "none": "Einstein",
    "guesses": "Einstein, Bohr, Planck, Marie Curie, Pierre, Rutherford, Fermi, Dirac, Pauli, Born, Lorentz, Mach",
}


def test_without_a_judge_the_checker_decides() -> None:
    assert tried(None, ANSWERS) == [1.0, 0.0, 0.0, 1.0]


def test_a_judge_decides_what_the_checker_doubts_and_nothing_else() -> None:
    role, engine = judge(Einstein="no", Curie="yes")
    assert tried(role, ANSWERS) == [1.0, 1.0, 0.0, 0.0]
    assert len(engine.prompts) == 2, "clear answers cost nothing"


def test_a_judge_sees_every_right_answer_and_overrules_none() -> None:
    role, engine = judge(Einstein="no", Curie="no")
    answers = {"other": "the wife of Pierre Curie", "half": "Curie", "none": "Einstein"}
    assert tried(role, answers, "wife of Pierre Curie", "Sklodowska") == [1.0, 0.0, 0.0]
    [asked] = engine.prompts
    assert all(gold in asked for gold in ("<<<\nMarie Curie\n", "<<<\nwife of Pierre Curie\n", "<<<\nSklodowska\n"))


def test_a_judge_that_says_nothing_useful_changes_nothing() -> None:
    role, _ = judge()
    assert tried(role, ANSWERS) == tried(None, ANSWERS)


# ---------------------------------------------------------------- lines that do not hold, and marks that are counted


def test_the_filter_leaves_out_lines_with_a_statement_that_does_not_hold() -> None:
    edit = "Tea is hot.\n- Tea is blue.\nEverybody likes it."
    pair = "Question 1: Hot?\nAnswer: no\nQuestion 2: Wet?\nAnswer: yes"

    def support(pairs: Sequence[tuple[str, Document]]) -> list[Any]:
        return [{"Tea is hot.": "supported", "Tea is blue.": "contradicted"}.get(s) for s, _ in pairs]

    plain, strict = (Selfedit(Selfedit.Options(filter=on)) for on in (False, True))
    assert plain.cleaned([(edit, TEA)], support) == [edit]
    assert strict.cleaned([(edit, TEA)], support) == ["Tea is hot.\nEverybody likes it."], "what nobody judged stays"

    def no(pairs: Sequence[tuple[str, Document]]) -> list[Any]:
        return ["contradicted" if "no" in s.split() else "supported" for s, _ in pairs]

    asking = Selfedit(Selfedit.Options(filter=True, format="self_qa"))
    assert asking.cleaned([(pair, TEA)], no) == ["Question 2: Wet?\nAnswer: yes"], "with its answer, or not at all"


def test_an_edit_of_which_nothing_holds_is_not_tried(tmp_path: Path) -> None:
    record = runs.run(tmp_path, "method.filter=true", documents=40)
    counts = record.final.counts  # type: ignore[union-attr]
    assert "edits without text: nothing in it is supported" not in counts, "nobody can tell here, so all stays"


def test_marks_that_are_counted_put_a_good_edit_first() -> None:
    good = "The drink tea is hot.\nGreen is the colour of tea.\nTea has a green colour."
    copy, idle, wild = TEA.text, "Tea is famous.", "Cars are fast and roads are long in many lands of the world."
    marks = [_proxy.score(edit, TEA.text) for edit in (good, copy, idle, wild)]
    assert marks[0] == max(marks)
    assert _proxy.score(good, TEA.text, ["contradicted"] * 3) < marks[0], "who knows better wins over words"
    assert _proxy.score("", TEA.text) == 0.0
    assert all(0 <= m <= 1 for m in marks)


def test_a_run_without_labels_learns_by_marks(tmp_path: Path) -> None:
    record = runs.run(tmp_path, "method.reward=proxy", documents=60)
    facts, verdicts = runs.findings(record)
    assert not record.labels.training, "no answer was read"
    assert "without an edit" not in facts
    assert not record.units("trials")
    written = runs.rollouts(record)
    useful = {r.task_id for r in written.values() if "The " in r.text}
    chosen = [written[v.subject] for v in verdicts if v.ok]
    assert len({r.task_id for r in chosen}) == len(chosen) > len(useful) > 10
    assert all("The " in r.text for r in chosen if r.task_id in useful), "idle edits have the worse marks"


def test_what_has_bad_marks_is_not_tried(tmp_path: Path) -> None:
    record = runs.run(tmp_path, "method.prefilter=0.5", documents=60)
    counts = record.final.counts  # type: ignore[union-attr]
    assert counts["edits that were not tried, by their marks"] == counts["edits"] // 2
    assert counts["adapters"] == counts["edits"] // 2 * 2
