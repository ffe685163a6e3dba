"""A model behind a server: every way in which it can misbehave, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from selftaught.config import check
from selftaught.engines import _chat
from selftaught.engines.base import Completion, Request
from selftaught.engines.endpoint import Endpoint
from selftaught.errors import EndpointError, IntegrityError, RecipeError, Stopped
from selftaught.replies import Replies
from selftaught.types import Guide, Sampling
from serving import FakeServer, serving

KEY = "sk-very-secret"
SOON: dict[str, Any] = {"backoff": 0.01, "deadline": 2.0}


def endpoint(server: FakeServer | str, **options: Any) -> Endpoint:
    url = server if isinstance(server, str) else server.url
    terms = check(Endpoint.Options, {"url": url, "model": "big", **SOON, **options}, "test")
    return Endpoint(terms)


def requests(who: Endpoint, count: int = 1, samples: int = 1, **sampling: Any) -> list[Request]:
    checkpoint, tokens = who.open(), who.tokens(who.open())
    how = Sampling(samples, **{"temperature": 0.7, "max_tokens": 64, **sampling})
    asked = [[{"role": "user", "content": f"{i}+1"}] for i in range(count)]
    return [
        Request(checkpoint, tokens.encode(tokens.render(m, "plain")), how, tuple(range(10 * i, 10 * i + samples)))
        for i, m in enumerate(asked)
    ]


def answers(who: Endpoint, count: int = 1, samples: int = 1, **sampling: Any) -> list[list[Completion]]:
    return [c for _, c in sorted(who.generate(requests(who, count, samples, **sampling)), key=lambda pair: pair[0])]


def text(completion: Completion) -> str:
    return bytes(completion.ids).decode()


# ---------------------------------------------------------------- what is asked


def test_a_request_says_what_is_wanted_and_nothing_unusual() -> None:
    with serving() as server:
        [[c]] = answers(endpoint(server))
        answers(endpoint(server), stop=("\n",), top_k=5)
    assert text(c).endswith("#### 1") and c.finish == "stop" and c.error is None and c.logprobs == ()
    plain = {"model": "big", "messages": [{"role": "user", "content": "0+1"}], "max_tokens": 64, "temperature": 0.7,
             "top_p": 1.0, "seed": 0}  # fmt: skip
    assert server.asked == [plain, plain | {"stop": ["\n"], "top_k": 5}]
    assert server.keys == [None, None]


@pytest.mark.parametrize("asked", [{"guide": Guide("regex", "[0-9]+")}, {"min_tokens": 3}])
def test_what_servers_do_not_do_alike_is_refused_before_anything_is_sent(asked: dict[str, Any]) -> None:
    with serving() as server:
        with pytest.raises(RecipeError, match="no guide and no min_tokens"):
            answers(endpoint(server), **asked)
        assert not server.asked


def test_an_answer_is_read_behind_the_thoughts_that_a_server_sends_along() -> None:
    tokens = endpoint("http://localhost:1/v1").tokens(endpoint("http://localhost:1/v1").open())
    assert tokens.said((), "<think>2 or 3?</think> 3") == " 3"
    assert tokens.said((), "[THINK]2[/THINK]3") == "3" and tokens.said((), "just 3") == "just 3"
    assert tokens.said((), "<think>2 or") is None, "it never answered"
    assert tokens.thought((), tuple(b"<think>2</think>3")) == len("<think>2</think>")
    off = endpoint("http://localhost:1/v1", prompt={"think": "off"})
    assert off.tokens(off.open()).said((), "<think>2") == "<think>2"


def test_a_sample_depends_on_its_own_seed_alone() -> None:
    with serving() as server:
        together = answers(endpoint(server), 6, 5)
        alone = [answers(endpoint(server, concurrency=1), i + 1, 5)[i] for i in range(6)]
        by_three = answers(endpoint(server, n=3), 6, 5)
    assert together == alone
    assert [len(c) for c in by_three] == [5] * 6
    assert {b["n"] for b in server.asked[-12:]} == {3, 2}, "five samples in two requests"


def test_questions_with_steps_and_raw_ones_are_put_as_messages() -> None:
    tokens = endpoint("http://h/v1").tokens(endpoint("http://h/v1").open())
    asked = ({"role": "system", "content": "é"}, {"role": "user", "content": "1+1"})
    assert json.loads(tokens.render(asked, "cot"))[1]["content"] == "1+1\nLet's think step by step."
    assert json.loads(tokens.render(asked, "raw")) == [{"role": "user", "content": "1+1"}]
    assert json.loads(tokens.decode(tokens.encode(tokens.render(asked, "plain")))) == list(asked)


def test_a_question_that_is_no_text_is_sent_as_it_is() -> None:
    odd = "1+1 \ud800 \x00 \u202e"
    with serving() as server:
        who = endpoint(server)
        prompt = who.tokens(who.open()).encode(
            who.tokens(who.open()).render([{"role": "user", "content": odd}], "plain")
        )
        [(_, [c])] = who.generate([Request(who.open(), prompt, Sampling(), (1,))])
    assert server.prompts == [odd] and c.error is None


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    "fault",
    ["status 500", "status 503", "status 429", "status 408", "reset", "cut", "garbage", "html", "truncated",
     "not utf-8", "surrogate", "not a number", "deep", "huge", "a list", "empty", "no text", "no choice", "gzip",
     "hang", "drip"],
)  # fmt: skip
def test_a_fault_that_passes_costs_another_try(fault: str) -> None:
    with serving(fault) as server:
        [[c]] = answers(endpoint(server))
    assert text(c).endswith("#### 1") and c.error is None
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "why"),
    [("status 500", _chat.BUSY), ("status 429", _chat.BUSY), ("reset", _chat.NO_CONNECTION),
     ("cut", _chat.NO_CONNECTION), ("html", _chat.MALFORMED), ("deep", _chat.MALFORMED),
     ("huge", _chat.MALFORMED), ("hang", _chat.NO_REPLY),
     ("drip", _chat.NO_REPLY), ("filtered", _chat.UNFINISHED)],
)  # fmt: skip
def test_a_fault_that_stays_is_an_error_of_that_request_alone(fault: str, why: str) -> None:
    """The request is a value with its error, once in the journal; the others have their answers."""
    told = []
    tries = 1 if fault == "filtered" else 2  # what was filtered once would be again
    with serving("ok", *[fault] * tries) as server:
        who = endpoint(server, retries=1, concurrency=1, deadline=1.5)
        who.notice = lambda event, **facts: told.append((event, facts["why"]))
        [[a], [b], [c]] = answers(who, 3)
    assert (a.error, b.error, c.error) == (None, why, None) and a.ids and c.ids
    assert told == ([] if fault == "filtered" else [("request failed", why)])


def test_one_that_was_cut_off_is_a_truncation_and_no_answer() -> None:
    with serving("length", "cut thought") as server:
        [[a], [b]] = answers(endpoint(server, concurrency=1), 2)
    assert a.finish == b.finish == "length" and a.ids and not b.ids and a.error is None
    assert len(server.asked) == 2, "neither is asked again"


def test_where_fewer_come_than_were_asked_for_the_others_are_asked_for() -> None:
    with serving("fewer", "fewer") as server:
        [found] = answers(endpoint(server, n=4, concurrency=1), 1, 4)
        [alone] = answers(endpoint(server), 1, 4)
    assert [b.get("n", 1) for b in server.asked[:3]] == [4, 3, 2]
    assert found == alone


def test_what_is_more_than_was_asked_for_is_left() -> None:
    with serving("more") as server:
        [found] = answers(endpoint(server, n=2), 1, 2)
    assert len(found) == 2


def test_the_reply_to_another_request_is_no_second_vote() -> None:
    with serving("ok", "repeated", "ok") as server:
        [[a], [b]] = answers(endpoint(server, concurrency=1), 2)
    assert (text(a), text(b)) == ("0+1=1\n#### 1", "1+1=2\n#### 2")
    assert len(server.asked) == 3


def test_what_a_server_sends_too_much_answers_no_other_request() -> None:
    with serving("twice", "twice") as server:
        found = answers(endpoint(server, concurrency=1), 3)
    assert [text(c) for [c] in found] == ["0+1=1\n#### 1", "1+1=2\n#### 2", "2+1=3\n#### 3"]


def test_without_a_count_of_tokens_there_is_none() -> None:
    with serving("no usage", "odd usage", "ok") as server:
        who = endpoint(server, concurrency=1)
        answers(who, 3)
    assert +who.used == {"requests": 3, "prompt tokens": 10, "completion tokens": 5,
                        "requests without a count of tokens": 2}  # fmt: skip


# ---------------------------------------------------------------- waiting


def test_retry_after_is_heeded_by_all() -> None:
    with serving("status 429 1") as server:
        answers(endpoint(server, concurrency=1), 2)
    assert server.times[1] - server.times[0] >= 1


def test_retry_after_is_read_as_seconds_or_a_date_and_nothing_else() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < (_chat.retry_after({"retry-after": later}) or 0) <= 100
    odd = ("", "soon", "nan", "-3", "1e309", "9" * 40)
    assert [_chat.retry_after({"retry-after": said}) for said in ("7", "1.5", *odd)] == [7.0, 1.5, *[None] * 6]
    assert _chat.retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0


def test_who_asks_to_wait_longer_than_there_is_patience_is_not_waited_for() -> None:
    began = time.monotonic()
    with serving("ok", "status 429 3600") as server:
        [_, [b]] = answers(endpoint(server, concurrency=1), 2)
    assert b.error == _chat.BUSY and time.monotonic() - began < 5


def test_patience_ends_tries_and_waits_together() -> None:
    began = time.monotonic()
    with serving("ok", then="status 500") as server:
        [_, [b]] = answers(endpoint(server, concurrency=1, retries=99, backoff=0.3, patience=1.0), 2)
    assert b.error == _chat.BUSY and time.monotonic() - began < 5
    assert 2 <= len(server.asked) - 1 <= 4


def test_back_off_doubles_up_to_a_limit_and_is_drawn_from_the_request() -> None:
    client = _chat.Client(endpoint("http://h/v1", backoff=1.0).options, None, Replies())
    asks = [_chat.Ask("u", {"seed": i}) for i in range(200)]
    for attempt, most in ((0, 1), (1, 2), (3, 8), (9, _chat.LONGEST_WAIT)):
        waits = [client._backoff(ask, attempt) for ask in asks]
        assert most / 2 <= min(waits) < 0.6 * most and 0.9 * most < max(waits) <= most
        assert waits == [client._backoff(ask, attempt) for ask in asks]


def test_requests_per_minute_are_a_limit() -> None:
    with serving() as server:
        who, began = endpoint(server, rpm=600), time.monotonic()
        answers(who, 6)
        answers(who, 8)
    assert [at - began >= 0.1 * i for i, at in enumerate(server.times)] == [True] * 8, "between calls as well"


def test_no_more_are_asked_at_once_than_allowed() -> None:
    with serving(then="slow") as server:
        answers(endpoint(server, concurrency=3), 12)
    assert 1 < server.most_at_once <= 3


def test_a_stop_is_answered_while_the_server_hangs() -> None:
    asked = threading.Event()
    with serving(then="hang") as server:
        threading.Timer(0.5, asked.set).start()
        began = time.monotonic()
        who = endpoint(server, deadline=60)
        with pytest.raises(Stopped):
            list(who.generate(requests(who, 4), stop=asked.is_set))
        assert time.monotonic() - began < 2
    assert not [t for t in threading.enumerate() if t.name == "endpoint"], "the thread that waited has ended"


def test_it_works_where_an_event_loop_runs_already() -> None:
    """In a notebook one does."""

    async def cell() -> list[list[Completion]]:
        return answers(endpoint(server), 3)

    with serving() as server:
        assert [len(c) for c in asyncio.run(cell())] == [1, 1, 1]


# ---------------------------------------------------------------- when it is gone


def test_a_server_that_is_gone_ends_the_run_with_what_to_type() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(EndpointError, match=r"does not answer: 8 requests in a row failed.*connection failed") as error:
        answers(endpoint(url, retries=1), 30)
    assert "selftaught resume" in error.value.hint and error.value.exit_code == 3


def test_a_server_that_never_answered_ends_even_a_short_call() -> None:
    with serving(then="status 500") as server, pytest.raises(EndpointError, match=r"every request failed.*status 500"):
        answers(endpoint(server, retries=0), 2)


def test_a_request_that_is_refused_alone_does_not_end_it() -> None:
    with serving("status 400") as server:
        [[c]] = answers(endpoint(server))
    assert c.error == _chat.REFUSED and len(server.asked) == 1, "a refusal is not tried again"


def test_requests_that_are_all_refused_end_it() -> None:
    with serving(then="status 422") as server, pytest.raises(EndpointError, match=r"8 requests in a row.*status 422"):
        answers(endpoint(server, concurrency=1), 20)
    assert len(server.asked) == 8


@pytest.mark.parametrize(("status", "hint"), [(401, "key_env"), (403, "key_env"), (404, "end in /v1")])
def test_a_wrong_key_or_name_ends_it_at_once(status: int, hint: str) -> None:
    with serving(then=f"status {status}") as server, pytest.raises(EndpointError, match=f"answers {status}") as error:
        answers(endpoint(server, concurrency=1), 5)
    assert hint in error.value.hint and len(server.asked) == 1


def test_a_redirect_is_not_followed() -> None:
    with serving() as other, serving(f"redirect {other.url}") as server:
        with pytest.raises(EndpointError, match="redirects to") as error:
            answers(endpoint(server))
        assert other.asked == [] and "Redirects are not followed" in error.value.hint


# ---------------------------------------------------------------- keys


def test_a_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)
    told: list[Any] = []
    with serving("echo", "status 400", "status 401") as server:
        who = endpoint(server, key_env="BIG_KEY", concurrency=1)
        who.replies = Replies(tmp_path / "replies.jsonl")
        who.notice = lambda event, **facts: told.append(facts)
        with pytest.raises(EndpointError) as error:
            answers(who, 3)
        assert server.keys == [f"Bearer {KEY}"] * 3
    kept = (tmp_path / "replies.jsonl").read_text()
    assert "your key is Bearer [key]" in kept and "Bearer [key]" in str(told) and "Bearer [key]" in str(error.value)
    assert not any(KEY in said for said in (kept, str(told), str(error.value), repr(who.options)))


def test_a_key_that_is_missing_is_said_before_anything_is_asked(monkeypatch: Any) -> None:
    monkeypatch.delenv("BIG_KEY", raising=False)
    with pytest.raises(RecipeError, match="BIG_KEY is not set") as error:
        endpoint("http://h/v1", key_env="BIG_KEY").key()
    assert "export BIG_KEY=" in error.value.hint
    monkeypatch.setenv("BIG_KEY", "a\nHost: b")
    with pytest.raises(RecipeError, match="BIG_KEY holds no key"):
        endpoint("http://h/v1", key_env="BIG_KEY").key()


def test_a_key_in_the_recipe_is_refused_and_not_repeated() -> None:
    with pytest.raises(RecipeError, match="key_env") as error:
        endpoint("http://h/v1", key_env=KEY)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "url", ["h/v1", "ftp://h/v1", "http://", "http://me:pw@h/v1", "http://h/v1?key=7", "http://h#x"]
)
def test_an_url_with_more_than_an_address_is_refused(url: str) -> None:
    with pytest.raises(RecipeError, match="url"):
        endpoint(url)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(RecipeError, match="unknown key 'concurency'; did you mean 'concurrency'"):
        endpoint("http://h/v1", concurency=3)


# ---------------------------------------------------------------- what was answered, and paid


def kept(who: Endpoint, tmp_path: Path, most: float | None = None) -> Endpoint:
    who.replies = Replies(tmp_path / "replies.jsonl", most)
    return who


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with serving() as server:
        first = answers(kept(endpoint(server), tmp_path), 4, 3)
        again = kept(endpoint(server), tmp_path)
        assert answers(again, 4, 3) == first
        assert len(server.asked) == 12 and again.used["requests"] == 12
        answers(kept(endpoint(server, model="other"), tmp_path), 1)
        assert len(server.asked) == 13, "another model is another question"


def test_a_torn_line_is_asked_again_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with serving() as server:
        answers(kept(endpoint(server), tmp_path), 3)
        path.write_bytes(path.read_bytes()[:-10])
        answers(kept(endpoint(server), tmp_path), 3)
    assert len(server.asked) == 4
    path.write_text(path.read_text().replace('"finishes"', '"finish"', 1))
    with pytest.raises(IntegrityError, match=r"replies.jsonl, line 1: not a reply"):
        Replies(path)


PRICED = {"price_prompt": 1000.0, "price_completion": 2000.0}  # a reply of 10 + 5 tokens costs 0.02


def test_cost_is_counted_over_processes(tmp_path: Path) -> None:
    with serving() as server:
        answers(kept(endpoint(server, **PRICED), tmp_path), 5)
        assert Replies(tmp_path / "replies.jsonl").spent == pytest.approx(5 * 0.02)


def test_tries_that_may_be_on_the_bill_count_as_dear_as_can_be(tmp_path: Path) -> None:
    with serving("html", "status 500") as server:
        who = kept(endpoint(server, **PRICED), tmp_path)
        answers(who)
    ask = _chat.Ask(server.url, {"messages": [{"role": "user", "content": "0+1"}], "max_tokens": 64})
    most = who.options.price(*ask.most_tokens)
    assert most > 64 * 0.002
    assert Replies(tmp_path / "replies.jsonl").spent == pytest.approx(most + 0.02), "the status 500 cost nothing"


def test_money_is_never_exceeded_and_what_it_does_not_cover_is_an_error(tmp_path: Path) -> None:
    with serving() as server:
        who = kept(endpoint(server, **PRICED), tmp_path, most=1.0)
        found = answers(who, 60)
    errors = [c.error for [c] in found]
    assert set(errors) == {None, _chat.SPENT}
    assert errors.count(None) == len(server.asked) == who.used["requests"]
    assert 0.7 < who.replies.spent <= 1.0
    with serving() as server:
        assert all(c.error == _chat.SPENT for [c] in answers(kept(endpoint(server, **PRICED), tmp_path, most=1.0), 3))
        assert server.asked == [], "what an earlier process spent counts"


# ---------------------------------------------------------------- adapters in a vLLM


def adapted(who: Endpoint, name: str, adapter: str | None = "/runs/a/adapter") -> list[Request]:
    from dataclasses import replace

    return [replace(r, checkpoint=replace(r.checkpoint, digest=name * 64, adapter=adapter)) for r in requests(who, 2)]


def test_an_adapter_is_loaded_once_under_its_own_name_and_the_one_before_unloaded() -> None:
    told: list[Any] = []
    with serving() as server:
        who = endpoint(server, reload=True)
        who.notice = lambda event, **facts: told.append((event, facts["name"]))
        list(who.generate(adapted(who, "a", None)))
        for name in ("b", "b", "c"):
            list(who.generate(adapted(who, name, f"/runs/{name}")))
    b, c = (f"selftaught-{x * 16}" for x in "bc")
    assert [body["model"] for body in server.asked] == ["big"] * 2 + [b] * 2 + [c] * 2
    assert server.calls == [("/v1/models", None), ("/v1/load_lora_adapter", {"lora_name": b, "lora_path": "/runs/b"}),
                            ("/v1/models", None), ("/v1/load_lora_adapter", {"lora_name": c, "lora_path": "/runs/c"}),
                            ("/v1/unload_lora_adapter", {"lora_name": b})]  # fmt: skip
    assert told == [("adapter loaded", b), ("adapter loaded", c)]


def test_an_adapter_that_is_there_already_is_not_loaded_again() -> None:
    with serving() as server:
        server.loaded = [f"selftaught-{'b' * 16}"]
        who = endpoint(server, reload=True)
        assert [c.error for _, [c] in who.generate(adapted(who, "b"))] == [None, None]
        assert [path for path, _ in server.calls] == ["/v1/models"]


def test_an_adapter_that_cannot_be_loaded_ends_the_run_before_anything_is_sampled() -> None:
    """Else the base's text would be on record as the adapter's."""
    with serving(then="no lora") as server:
        who = endpoint(server, reload=True)
        with pytest.raises(EndpointError, match=r"did not load the adapter /runs/a/adapter.*404") as error:
            list(who.generate(adapted(who, "b")))
        assert server.asked == [] and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in error.value.hint
