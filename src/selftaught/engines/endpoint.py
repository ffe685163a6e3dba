"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama): it generates, and no more.

It cannot be the student: nothing is tuned or scored there. Prompts go out as messages to ``/v1/chat/completions`` and
come back as text, so its "tokens" are bytes: prompt ids are the messages as JSON in UTF-8, completion ids a text in
UTF-8, without log-probabilities. Whoever learns from them puts them into the student's tokens (see roles.py).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selftaught.config import PromptConfig
from selftaught.engines._aside import Aside
from selftaught.engines._chat import REFUSED, UNFINISHED, Ask, Client, Failure, Terms
from selftaught.engines._lora import Adapters
from selftaught.engines._thoughts import KNOWN, Markers
from selftaught.engines.base import Completion, Notice, Progress, Request, StopToken, never, quiet, unheard
from selftaught.errors import EndpointError, RecipeError
from selftaught.replies import SPENT, Replies, Reply
from selftaught.types import Checkpoint, Message, digest

SEEDS = 2**31  # llama.cpp reads a seed as 32 bits
WAIT = 0.1  # seconds between two looks at the stop token


class Messages:
    """``Tokens`` of a server: bytes."""

    digest = digest("messages as UTF-8")[:16]
    context = 2**31  # the server knows, and refuses what is too long
    has_bos = False

    def __init__(self, prompt: PromptConfig) -> None:
        self.prompt = prompt

    def render(self, messages: Sequence[Message], form: str) -> str:
        said = [dict(m) for m in messages]
        if form == "raw":
            said = [{"role": "user", "content": messages[-1]["content"]}]
        elif form == "cot":
            said[-1]["content"] += "\n" + self.prompt.step_by_step
        return json.dumps(said)  # in ASCII, whatever is in a question

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    encode_completion = encode

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def lead(self, prompt: str) -> str:
        return ""

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        """A server opens no thoughts in a prompt that it shows; most keep them out of the answer as well."""
        if self.prompt.think == "off":
            return text
        pairs = KNOWN if self.prompt.think == "auto" else (self.prompt.think,)
        pair = next((Markers(*p) for p in pairs if p[0] in text or p[1] in text), None)
        return pair.said(text, False) if pair else text

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        text = self.decode(completion_ids)
        return len(completion_ids) - len((self.said(prompt_ids, text) or "").encode())


@dataclass(frozen=True)
class Answered:
    """What came of ``count`` samples of a request, from ``first`` on: their ``reply``, or ``why`` there is none."""

    request: int
    first: int
    count: int
    reply: Reply | None
    why: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Told:
    """Something for the journal."""

    event: str
    facts: Mapping[str, str | int | float]


class Endpoint:
    Options = Terms

    def __init__(self, options: Terms) -> None:
        self.options = options
        self.notice: Notice = unheard
        self.replies = Replies()  # of the run, where there is one
        self.used: Counter[str] = Counter()  # requests and tokens of what was given out, kept replies as well
        self._adapters = Adapters()
        self._client: Client | None = None

    def open(self) -> Checkpoint:
        """Names the server and the model that it is asked for. What really answers there cannot be checked."""
        return Checkpoint(digest("endpoint", self.options.url, self.options.model), self.options.model)

    def tokens(self, checkpoint: Checkpoint) -> Messages:
        return Messages(self.options.prompt)

    def key(self) -> str | None:
        """The key, from the environment. Raises RecipeError where there is none, or none that a header can hold."""
        name = self.options.key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise RecipeError(
                f"The environment variable {name} {'is not set' if not key else 'holds no key'} (key_env).",
                hint=f"Set it where you type this: export {name}=...",
            )
        return key

    # ------------------------------------------------------------ generates

    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See base.Generates. A request that failed has completions with ``error``. Raises EndpointError when
        ``give_up`` of them failed in a row, or all, or where any other would fail as well."""
        if any(r.sampling.guide is not None or r.sampling.min_tokens for r in requests):
            raise RecipeError("A server is asked for no guide and no min_tokens.", hint="Sample with a local model.")
        slots: dict[int, list[Completion | None]] = {i: [None] * len(r.seeds) for i, r in enumerate(requests)}
        total = sum(map(len, slots.values()))
        asked = done = row = 0
        failed: Answered | None = None
        aside: Aside[Answered | Told] = Aside(lambda put: self._ask_all(requests, put))
        with aside as answers:
            for answered in answers.items(stop, WAIT):
                if isinstance(answered, Told):
                    self.notice(answered.event, **answered.facts)
                    continue
                asked += 1
                row = 0 if answered.reply else row + (answered.why != SPENT)
                failed = answered if row else None
                if row >= self.options.give_up:
                    raise self._down(answered, f"{row} requests in a row failed")
                found = self._completions(answered)
                mine = slots[answered.request]
                mine[answered.first : answered.first + len(found)] = found
                done += len(found)
                progress(done, total, "samples")
                if None not in mine:
                    whole = [c for c in slots.pop(answered.request) if c is not None]
                    said = [c.ids for c in whole if c.ids]
                    self.used["samples alike"] += len(said) - len(set(said))
                    yield answered.request, whole
        if failed and row == asked and failed.why != REFUSED:
            raise self._down(failed, "every request failed")

    def _completions(self, answered: Answered) -> list[Completion]:
        reply = answered.reply
        if reply is None:
            if answered.why != SPENT:  # as is every request from then on
                self.notice("request failed", why=answered.why, detail=answered.detail)
            return [Completion((), (), "stop", answered.why)] * answered.count
        self.used.update({"requests": 1, "prompt tokens": reply.prompt_tokens,
                          "completion tokens": reply.completion_tokens,
                          "requests without a count of tokens": int(not reply.metered)})  # fmt: skip
        return [
            Completion(tuple(text.encode()), (), finish, UNFINISHED if finish == UNFINISHED else None)
            for text, finish in zip(reply.texts, reply.finishes, strict=True)
        ]

    def _down(self, last: Answered, what: str) -> EndpointError:
        return EndpointError(
            f"{self.options.url} does not answer: {what}. The last one: {last.detail}",
            hint="Look at the server. What it answered is kept, and only the rest is asked again: selftaught resume",
        )

    # ------------------------------------------------------------ beside the caller, see _aside.py

    async def _ask_all(self, requests: Sequence[Request], put: Callable[[Answered | Told], None]) -> None:
        async with http_client() as http:
            self._client = client = self._client or Client(self.options, self.key(), self.replies)
            client.http = http

            def tell(event: str, **facts: str | int | float) -> None:
                put(Told(event, facts))

            checkpoints = {r.checkpoint.digest: r.checkpoint for r in requests}
            models = {name: await self._adapters.name_of(c, client, tell) for name, c in checkpoints.items()}
            todo = iter(enumerate(requests))

            async def work() -> None:
                for number, request in todo:
                    await self._answer(number, request, models[request.checkpoint.digest], client, put)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.options.concurrency, len(requests))):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _answer(
        self, number: int, request: Request, model: str, client: Client, put: Callable[[Answered | Told], None]
    ) -> None:
        """All samples of a request, ``n`` at a time; where the server gives fewer, it is asked for the others."""
        first, seeds = 0, request.seeds
        while first < len(seeds):
            ask = self._ask(request, model, seeds[first : first + self.options.n])
            try:
                reply = self.replies.get(ask.id) or await client.complete(ask)
                answered = Answered(number, first, len(reply.texts), reply)
            except Failure as failure:
                count = len(seeds) - first if failure.why == REFUSED else ask.n  # the prompt would be refused again
                answered = Answered(number, first, count, None, failure.why, str(failure))
            put(answered)
            first += answered.count

    def _ask(self, request: Request, model: str, seeds: Sequence[int]) -> Ask:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": model,
            "messages": json.loads(bytes(request.prompt_ids)),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seeds[0] % SEEDS,
        }
        unusual = {"n": len(seeds), "top_k": sampling.top_k, "stop": list(sampling.stop)}
        usual = {"n": 1, "top_k": 0, "stop": []}  # not every server knows these: sent where they say something
        return Ask(self.options.url, body | {k: v for k, v in unusual.items() if v != usual[k]})


def http_client() -> Any:
    """A connection for each request, so that none is answered with what a server sent too much before."""
    import httpx2

    return httpx2.AsyncClient(
        timeout=None, follow_redirects=False, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    )
