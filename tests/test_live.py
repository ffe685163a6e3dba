"""The live view, drawn into a string as a terminal would get it."""

from __future__ import annotations

import os
from io import StringIO

import pytest
from rich.console import Console

from selftaught.errors import Stopped
from selftaught.live import STOPPING, Live, choose, clock
from selftaught.view import Plain, Silent


def terminal() -> Console:
    return Console(file=StringIO(), force_terminal=True, width=100, height=40, no_color=True, legacy_windows=False)


def drawn(view: Live) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(view)
    return "\n".join(" ".join(line.split()) for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_stages_are_checked_off() -> None:
    with Live(terminal()) as view:
        view.stage("prepare")
        view.stage("sample", "12 answers each")
        view.progress(0, 2400, "samples")
        view.progress(600, 2400, "samples")
        shown = drawn(view)
    assert "✓ prepare" in shown and "12 answers each" in shown and "600 of 2,400 samples" in shown
    assert "· audit\n· gate" in shown


def test_the_last_state_stays_without_what_was_not_reached() -> None:
    with Live(terminal()) as view:
        view.stage("sample")
    shown = view.console.file.getvalue()  # type: ignore[attr-defined]
    assert "✓ sample" in drawn(view) and "gate" not in drawn(view) and shown.endswith("in all\x1b[0m\n\x1b[?25h")


def test_an_error_marks_the_stage_and_gives_the_cursor_back() -> None:
    view = Live(terminal())
    with pytest.raises(ZeroDivisionError), view:
        view.stage("train")
        raise ZeroDivisionError
    written = view.console.file.getvalue()  # type: ignore[attr-defined]
    assert "✗ train" in drawn(view)
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0


def test_a_stop_is_no_failure_and_is_announced() -> None:
    view = Live(terminal())
    with pytest.raises(Stopped), view:
        view.stage("train")
        view.notice = STOPPING
        assert STOPPING in drawn(view)
        raise Stopped
    assert "■ train" in drawn(view) and STOPPING not in drawn(view)


def test_the_rate_of_a_resumed_stage_counts_what_was_done_now() -> None:
    with Live(terminal()) as view:
        view.stage("sample")
        view.progress(1000, 2000, "samples")
        stage = view.stages[1]
        stage.first_at -= 10
        view.progress(1100, 2000, "samples")
        assert stage.rate() == "1,100 of 2,000 samples · 10.0 samples/s, 1:30 left"


def test_an_unknown_stage_has_a_place_and_a_repeated_one_keeps_its_own() -> None:
    with Live(terminal()) as view:
        for name in ("sample", "vote", "sample"):
            view.stage(name)
        names = [s.name for s in view.stages]
    assert names[:4] == ["prepare", "sample", "vote", "curate"] and names.count("sample") == 1


def test_markup_in_a_line_is_text() -> None:
    view = Live(terminal())
    view.line("[red]not red[/red]")
    assert "[red]not red[/red]" in view.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_pipe_gets_plain_lines_and_quiet_gets_none() -> None:
    assert (
        isinstance(choose(), Plain) and isinstance(choose(json=True), Plain) and isinstance(choose(quiet=True), Silent)
    )


def test_clock() -> None:
    assert [clock(s) for s in (41, 723, 3723)] == ["0:41", "12:03", "1:02:03"]


def test_a_reader_that_left_does_not_end_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    view = Plain(out)
    view.stage("sample")
    view.line("nobody reads this")
    with pytest.raises(BrokenPipeError):
        out.close()  # what was not read is still there to be lost
