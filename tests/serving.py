"""A scripted model server that misbehaves on request, for tests of endpoints.

It answers sums, rightly most of the time, by the seed it is sent, writes questions about passages, and says yes to
every disputed answer. ``faults`` says
what to do with the next requests for a completion, one word each; when they are used up it does ``then``. Everything it
was sent is in ``asked``.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from selftaught.engines._mind import Mind, questions

DRIP = 0.5  # seconds between two bytes of a server that drips


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, faults: Sequence[str] = (), then: str = "ok", skill: float = 1.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.then, self.skill = list(faults), then, skill
        self.asked: list[dict[str, Any]] = []  # bodies of requests for a completion
        self.keys: list[str | None] = []  # their Authorization headers
        self.times: list[float] = []
        self.answered = 0  # completions that were given in order
        self.loaded: list[str] = []  # adapters, as vLLM has them
        self.calls: list[tuple[str, Any]] = []  # of other paths
        self.lock, self.open = threading.Lock(), threading.Event()
        self.last = b""
        self.most_at_once = self.at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [m["content"] for body in self.asked for m in body["messages"]]

    def handle_error(self, *_: object) -> None: ...  # a client that hung up


@contextmanager
def serving(*faults: str, then: str = "ok", skill: float = 1.0) -> Iterator[FakeServer]:
    server = FakeServer(faults, then, skill)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.open.set()
        server.shutdown()
        server.server_close()


def said(question: str, seed: int, skill: float) -> str:
    if (written := questions(question, Mind(skill))) is not None:
        return written
    if question.endswith("Reply with one word: yes or no."):
        return "yes"
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    rng = random.Random(seed)
    total = sum(numbers) + (0 if rng.random() < skill else rng.choice([-10, -2, -1, 1, 2, 10]))
    return f"{'+'.join(map(str, numbers))}={total}\n#### {total}"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.calls.append((self.path, None))
        self.send_json(200, {"data": [{"id": name} for name in self.server.loaded]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/chat/completions":
            self.complete(body)
        else:
            self.server.calls.append((self.path, body))
            self.adapter(body)

    def adapter(self, body: dict[str, Any]) -> None:
        if self.server.then == "no lora":
            return self.send_json(404, {"detail": "Not Found"})
        if self.path.endswith("/unload_lora_adapter"):
            self.server.loaded.remove(body["lora_name"])
        elif body["lora_name"] in self.server.loaded:
            return self.send_json(400, {"message": "already been loaded"})
        else:
            self.server.loaded.append(body["lora_name"])
        self.send_body(200, b"Success")

    def complete(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.keys.append(self.headers["Authorization"])
            server.times.append(time.monotonic())
            fault = server.faults.pop(0) if server.faults else server.then
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.misbehave(fault, body)
        finally:
            with server.lock:
                server.at_once -= 1

    # ------------------------------------------------------------ what it may do

    def misbehave(self, fault: str, body: dict[str, Any]) -> None:
        good = self.reply(body)
        match fault.split(" "):
            case ["ok"] | ["slow"] | ["no", "lora"]:
                if fault == "slow":
                    time.sleep(0.05)
                with self.server.lock:
                    self.server.answered += 1
                self.server.last = encode(good)
                self.send_json(200, good)
            case ["status", code, *after]:
                headers = {"Retry-After": " ".join(after)} if after else {}
                self.send_body(int(code), f"error {code} {self.headers['Authorization']}".encode(), headers)
            case ["redirect", where]:
                self.send_body(307, b"", {"Location": where})
            case ["reset"]:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            case ["garbage"]:
                self.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")
                self.close_connection = True
            case ["hang"]:
                self.server.open.wait(60)
            case ["drip"]:
                self.drip(encode(good))
            case ["cut"]:
                self.head(200, len(encode(good)) + 100)
                self.wfile.write(encode(good))
                self.close_connection = True
            case ["twice"]:
                self.send_json(200, good)
                self.send_json(200, self.reply(body | {"seed": 1}, "stale"))
            case ["gzip"]:
                self.send_body(200, gzip.compress(encode(good)), {"Content-Encoding": "gzip"})
            case ["repeated"]:
                self.send_body(200, self.server.last)
            case ["echo"]:
                self.send_json(200, self.reply(body, f"your key is {self.headers['Authorization']} #### 7"))
            case _:
                self.send_body(200, malformed(fault, good))

    def reply(self, body: dict[str, Any], text: str | None = None) -> dict[str, Any]:
        question, skill = body["messages"][-1]["content"], self.server.skill
        texts = [text or said(question, body["seed"] + i, skill) for i in range(body.get("n", 1))]
        choices = [{"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": t}}
                   for i, t in enumerate(texts)]  # fmt: skip
        usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(texts)}
        with self.server.lock:
            number = len(self.server.asked)
        return {"id": f"chatcmpl-{number}-{body['seed']}", "created": 0, "choices": choices, "usage": usage}

    def drip(self, data: bytes) -> None:
        self.head(200, len(data))
        for byte in data:
            if self.server.open.wait(DRIP):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(status, len(data), headers)
        self.wfile.write(data)

    def send_json(self, status: int, data: Any) -> None:
        self.send_body(status, encode(data))


def encode(data: Any) -> bytes:
    return json.dumps(data).encode()


def malformed(fault: str, good: dict[str, Any]) -> bytes:
    """A reply with status 200 that is not what it should be."""
    choice = good["choices"][0]
    match fault:
        case "html":
            return b"<!doctype html><title>Sign in</title>"
        case "truncated":
            return encode(good)[:-20]
        case "not utf-8":
            return encode(good).replace(b"####", b"\xff\xfe##")
        case "surrogate":
            return encode(good).replace(b"####", b"\\ud800")
        case "not a number":
            return encode(good | {"created": float("nan")})
        case "deep":
            return b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}"
        case "huge":
            return encode(good | {"padding": "x" * 5_000_000})
        case "a list":
            return encode([good])
        case "empty":
            return encode(good | {"choices": []})
        case "no text":
            return encode(good | {"choices": [choice | {"message": {"content": 7}}]})
        case "no choice":
            return encode(good | {"choices": [7]})
        case "fewer":
            return encode(good | {"choices": good["choices"][:1]})
        case "more":
            return encode(good | {"choices": good["choices"] * 2})
        case "length":
            return encode(good | {"choices": [c | {"finish_reason": "length"} for c in good["choices"]]})
        case "filtered":
            return encode(good | {"choices": [c | {"finish_reason": "content_filter"} for c in good["choices"]]})
        case "cut thought":
            return encode(good | {"choices": [choice | {"finish_reason": "length", "message": {"content": None}}]})
        case "no usage":
            return encode({k: v for k, v in good.items() if k != "usage"})
        case "odd usage":
            return encode(good | {"usage": {"prompt_tokens": "many", "completion_tokens": -3}})
    raise AssertionError(f"no such fault: {fault}")
