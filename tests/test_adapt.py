"""The protocol adapt by itself: whose tokens an edit is read in, and which answers are empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import papers
from selftaught.adapt import Writer, adapt
from selftaught.engines.base import Completion, Request
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.types import Checkpoint
from test_opinions import Saying
from test_trial import CONFIG, METHOD, Counting, Tryer


def tryer(engine: Scripted) -> Tryer:
    parent = engine.open("scripted:0.2")
    return Tryer(engine, engine.tokens(parent), METHOD, papers.world(dev=4), CONFIG, 7)


class Thinking(ByteTokens):
    """Of a model that ends its thoughts with a stroke."""

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        return text.partition("|")[2]


def test_an_edit_is_read_in_the_tokens_of_who_wrote_it() -> None:
    engine = Counting()
    trying = tryer(engine)
    editor = Writer(Saying(thing="I think. | Tea is hot."), Checkpoint("editor", "editor"), Thinking(4096))
    adapt(trying, engine.open("scripted:0.2"), "dev", trying.source.dev, "accuracy", 0, editor, "editor")
    learned = {e.text.strip() for job in engine.jobs for e in job.job.examples}
    assert "Tea is hot." in learned
    assert not any("I think" in text for text in learned)


def test_an_answer_that_was_never_given_is_not_an_empty_one() -> None:
    engine = Counting(astray=1.0)
    trying = tryer(engine)
    found = adapt(trying, engine.open("scripted:0.2"), "dev", trying.source.dev, "accuracy", 0, control="passage")
    assert all("numbers" in str(i.error) for i in found.items)
    assert found.report.metrics["empty"].value == 0.0


def test_an_answer_without_a_word_is_empty() -> None:
    class Silent(Counting):
        class Options(Scripted.Options):
            pass

        def _complete(self, request: Request, seed: int, mind: Any = None) -> Completion:
            return Completion((), (), "stop")

    engine = Silent()
    trying = tryer(engine)
    found = adapt(trying, engine.open("scripted:0.2"), "dev", trying.source.dev, "accuracy", 0, control="passage")
    assert found.report.metrics["empty"].value == 1.0
