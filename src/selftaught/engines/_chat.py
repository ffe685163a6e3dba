"""One request to an OpenAI-compatible server: sent, tried again, paid, and its reply read as hostile data."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from selftaught.config import PromptConfig, Section
from selftaught.errors import EndpointError
from selftaught.replies import BUSY, MALFORMED, NO_CONNECTION, NO_REPLY, SPENT, Replies, Reply
from selftaught.types import canonical, digest, seed_for
from selftaught.visible import printable

# Why a request failed: few words, because they become counts in the record (more in replies.py). Details go to the
# journal.
REFUSED = "the server refused it"
UNFINISHED = "ended for another reason"

AGAIN = (408, 409, 425, 429)  # and every 5xx: worth another try
FATAL = {
    401: "Is the key in the environment variable that key_env names the right one?",
    403: "Is the key in the environment variable that key_env names the right one?",
    404: "Does url end in /v1, and is model the name under which the server knows it?",
}
LONGEST_WAIT = 30.0  # seconds between two tries, where the server names none
REPLY_BYTES, TOKEN_BYTES = 65_536, 64  # a reply may have so many bytes, and so many more for each token asked for
PAUSE = 0.05  # seconds between two looks at whether money became free
MESSAGE_TOKENS = 64  # what a server's template may put around a message, at most


class Terms(Section):
    """How a server is spoken to: the keys of an endpoint in a recipe."""

    url: str
    model: str = Field(min_length=1)
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    deadline: float = Field(default=120.0, gt=0)  # seconds that one try may take
    patience: float = Field(default=600.0, gt=0)  # seconds that a request may take, all its tries and waits together
    retries: int = Field(default=5, ge=0)
    backoff: float = Field(default=1.0, ge=0)  # seconds before the second try; doubled for each further one
    give_up: int = Field(default=8, ge=1)  # so many requests that failed in a row end the run
    concurrency: int = Field(default=8, ge=1)
    rpm: float | None = Field(default=None, gt=0)  # requests per minute
    n: int = Field(default=1, ge=1)  # samples asked for in one request
    price_prompt: float = Field(default=0.0, ge=0)  # money per million tokens
    price_completion: float = Field(default=0.0, ge=0)
    reload: bool = False  # a vLLM that serves the student: load every accepted LoRA adapter into it
    prompt: PromptConfig = PromptConfig()

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as http://HOST:PORT/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("no name, key or question mark in it; a key is read from the variable that key_env names")
        return url.rstrip("/")

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / 1e6


@dataclass(frozen=True)
class Ask:
    """A request to a server: its body. ``id`` names it by content; no key is part of it."""

    url: str
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        return digest("ask", self.url, dict(self.body))

    @property
    def n(self) -> int:
        return int(self.body.get("n", 1))

    @property
    def most_tokens(self) -> tuple[int, int]:
        """(prompt, completion) tokens that it can cost: no token is shorter than a byte."""
        messages = self.body["messages"]
        return len(canonical(messages)) + MESSAGE_TOKENS * len(messages), self.n * int(self.body["max_tokens"])

    @property
    def most_bytes(self) -> int:
        return REPLY_BYTES + TOKEN_BYTES * self.most_tokens[1]


class Failure(Exception):
    """A try that brought no reply. ``again``: another one may; ``wait``: seconds that the server asks for first;
    ``billed``: it may have been paid for all the same."""

    def __init__(
        self, why: str, detail: str = "", *, again: bool = True, wait: float | None = None, billed: bool = False
    ) -> None:
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why, self.again, self.wait, self.billed = why, again, wait, billed


class Client:
    """Speaks to one server. ``http`` is an open ``httpx2.AsyncClient``; ``replies`` what was answered and paid."""

    def __init__(self, terms: Terms, key: str | None, replies: Replies) -> None:
        self.terms, self.replies = terms, replies
        self.http: Any = None
        self._key = (key or "").encode()
        self._free = 0.0  # when the next request may go out, on the clock of time.monotonic

    async def complete(self, ask: Ask) -> Reply:
        """The reply to ``ask``, kept. Raises Failure after the last try, and EndpointError where no other request would
        fare better: a wrong key or name, a redirect."""
        until = math.inf
        for attempt in count():
            await self._turn()
            until = min(until, time.monotonic() + self.terms.patience)
            try:
                return await self._paid(ask)
            except Failure as failure:
                wait = self._backoff(ask, attempt) if failure.wait is None else failure.wait
                if not failure.again or attempt >= self.terms.retries or time.monotonic() + wait > until:
                    raise
                if failure.wait is not None:
                    self._free = max(self._free, time.monotonic() + wait)  # it asked everybody to wait
                await asyncio.sleep(wait)
        raise AssertionError("count() ended")

    async def _turn(self) -> None:
        """Wait until the rate limit lets a request go out."""
        now = time.monotonic()
        at = max(now, self._free)
        self._free = at + 60 / self.terms.rpm if self.terms.rpm else self._free
        await asyncio.sleep(at - now)

    def _backoff(self, ask: Ask, attempt: int) -> float:
        """Doubled each time, half of it drawn from the request's id: many that failed at once do not come back so."""
        luck = seed_for(attempt, "back off", ask.id) / 2**63
        return float(min(LONGEST_WAIT, self.terms.backoff * 2**attempt) * (0.5 + luck / 2))

    async def _paid(self, ask: Ask) -> Reply:
        """One try, for which money is put aside before. What may have been paid counts as paid."""
        most = self.terms.price(*ask.most_tokens)
        while not (reserved := self.replies.reserve(most)):
            if reserved is None:
                raise Failure(SPENT, again=False)
            await asyncio.sleep(PAUSE)
        try:
            reply = await self._try(ask)
        except BaseException as error:
            free = isinstance(error, EndpointError) or (isinstance(error, Failure) and not error.billed)
            self.replies.settle(most, 0.0 if free else most, lost=True)
            raise
        cost = self.terms.price(reply.prompt_tokens, reply.completion_tokens) if reply.metered else most
        self.replies.settle(most, cost)
        self.replies.keep(ask.id, reply, cost)
        return reply

    async def _try(self, ask: Ask) -> Reply:
        status, headers, body = await self.post("/chat/completions", ask.body, ask.most_bytes)
        if status != 200:
            self.check_status(status, headers, body)
            again = status in AGAIN or status >= 500
            detail = f"status {status}, {self._said(body)}"
            raise Failure(BUSY if again else REFUSED, detail, again=again, wait=retry_after(headers))
        try:
            reply = read_reply(body, ask.n)
        except (ValueError, RecursionError) as error:
            raise Failure(MALFORMED, str(error)[:200], billed=True) from error
        if self.replies.is_repeated(ask.id, reply):
            raise Failure(MALFORMED, "it repeats the reply to another request", billed=True)
        return reply

    async def post(self, path: str, body: Mapping[str, Any] | None, most: int) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, bytes) of one exchange within the deadline; a GET where there is no body, or Failure."""
        import httpx2

        headers = {"Accept-Encoding": "identity"}  # what is not compressed cannot be a bomb
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.decode()}"
        sent = {"content": json.dumps(body)} if body is not None else {}
        headers |= {"Content-Type": "application/json"} if sent else {}
        request = self.http.build_request("POST" if sent else "GET", self.terms.url + path, headers=headers, **sent)
        try:
            async with asyncio.timeout(self.terms.deadline):
                return await self._exchange(request, most)
        except TimeoutError as error:
            raise Failure(NO_REPLY, f"within {self.terms.deadline:g} seconds", billed=True) from error
        except httpx2.HTTPError as error:
            unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise Failure(NO_CONNECTION, f"{type(error).__name__} {error}".strip(), billed=not unsent) from error

    async def _exchange(self, request: Any, most: int) -> tuple[int, Mapping[str, str], bytes]:
        response = await self.http.send(request, stream=True)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Failure(MALFORMED, "it is compressed, which nobody asked for", billed=True)
            found = bytearray()
            async for chunk in response.aiter_raw():
                found += chunk
                if len(found) > most:
                    raise Failure(MALFORMED, f"it is longer than {most:,} bytes", billed=True)
        finally:
            await response.aclose()
        return response.status_code, response.headers, self._without_key(bytes(found))

    def _without_key(self, body: bytes) -> bytes:
        """A server may send back what it was sent, and replies are kept."""
        return body.replace(self._key, b"[key]") if self._key else body

    def check_status(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises EndpointError for a status that every other request would get as well."""
        if 300 <= status < 400:
            raise EndpointError(
                f"{self.terms.url} redirects to {printable(headers.get('location', 'nowhere'))[:200]}.",
                hint="Redirects are not followed: prompts would go where you did not send them. Start a run with the"
                " right url.",
            )
        if status in FATAL:
            raise EndpointError(
                f"{self.terms.url} answers {status} for the model {self.terms.model!r}: {self._said(body)}",
                hint=f"{FATAL[status]} What is finished is kept; go on with: selftaught resume",
            )

    def _said(self, body: bytes) -> str:
        return " ".join(printable(body[:300].decode("utf-8", "replace")).split()) or "without a word"


# ---------------------------------------------------------------- replies


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says neither."""
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,3})?", said):
        return float(said)
    try:
        when = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def read_reply(body: bytes, n: int) -> Reply:
    """At most ``n`` texts of a chat completion. Raises ValueError or RecursionError for anything else."""
    data = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("there are no choices in it")
    read = [_choice(c) for c in choices[:n]]
    usage = data.get("usage")
    tokens = [_tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")]
    metered = None not in tokens
    prompt, completion = (t or 0 for t in tokens) if metered else (0, 0)
    name = data.get("id")
    mark = digest(name, data.get("created"), read) if isinstance(name, str) and name else ""
    return Reply(tuple(t for t, _ in read), tuple(f for _, f in read), prompt, completion, metered, mark)


def _choice(choice: Any) -> tuple[str, str]:
    """(text, "stop", "length" or why there is no text to use)."""
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if text is None and isinstance(message, dict) and finish == "length":
        text = ""  # a reasoning model that was cut off before it came to say anything
    if not isinstance(text, str):
        raise ValueError("a choice has no text")
    text.encode("utf-8")  # half of a surrogate pair could not be written down: ValueError
    return text, finish if finish in ("stop", "length") else UNFINISHED


def _tokens(usage: Any, name: str) -> int | None:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if type(found) is int and 0 <= found < 10**9 else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
