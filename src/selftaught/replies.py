"""What servers answered in a run, kept as it came in ``replies.jsonl``: a resumed run asks nothing twice.

A line is a reply, by the id of its request, or money that was paid for none. The file is no part of the chain, which
has what became of the replies. Keys never get here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selftaught.errors import IntegrityError
from selftaught.store import append_line, mend, read_lines

NAME = "replies.jsonl"

# Why there is no reply, though there may be one another time.
NO_REPLY = "no reply in time"
NO_CONNECTION = "the connection failed"
BUSY = "the server was busy"
MALFORMED = "malformed reply"
SPENT = "budget.money was spent"
PASSING = (NO_REPLY, NO_CONNECTION, BUSY, MALFORMED, SPENT)


@dataclass(frozen=True)
class Reply:
    """The texts of one request. ``finishes``: "stop", "length", or why a text is of no use; ``metered``: whether the
    server said how many tokens it took; ``mark`` tells it from every other reply, where the server gave it an id."""

    texts: tuple[str, ...]
    finishes: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    metered: bool
    mark: str = ""


class Replies:
    """The replies and the money of a run, over all its endpoints; without a ``path``, of this process alone.

    ``most`` is what may be spent. Raises IntegrityError when the file was damaged.
    """

    def __init__(self, path: Path | None = None, most: float | None = None) -> None:
        self.path, self.most = path, most
        self.spent = 0.0
        self._reserved = 0.0
        self._known: dict[str, Reply] = {}
        self._marks: dict[str, str] = {}
        if path is not None:
            mend(path)
            self._read(path)

    def _read(self, path: Path) -> None:
        for number, line in enumerate(read_lines(path), start=1):
            try:
                self.spent += float(line["cost"])
                if "ask" in line:
                    self._learn(line["ask"], _reply(line["reply"]))
            except (KeyError, TypeError, ValueError) as error:
                raise IntegrityError(
                    f"{path}, line {number}: not a reply.",
                    hint="Restore the file, or remove it: what is in no finished unit is asked again, and paid again.",
                ) from error

    def get(self, ask: str) -> Reply | None:
        return self._known.get(ask)

    def is_repeated(self, ask: str, reply: Reply) -> bool:
        """Whether this very reply was the one to another request: a sample that counts twice would vote twice."""
        return self._marks.setdefault(reply.mark, ask) != ask if reply.mark else False

    def keep(self, ask: str, reply: Reply, cost: float) -> None:
        """Make a reply last."""
        self._learn(ask, reply)
        self._write({"ask": ask, "reply": asdict(reply), "cost": cost})

    def _learn(self, ask: str, reply: Reply) -> None:
        self._known[ask] = reply
        if reply.mark:
            self._marks[reply.mark] = ask

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.path is not None:
            append_line(self.path, line)

    # ------------------------------------------------------------ money

    def reserve(self, most: float) -> bool | None:
        """Put money aside for a request. False: not before others are paid for; None: never, too little is left."""
        if self.most is not None and self.spent + most > self.most:
            return None
        if self.most is not None and self.spent + self._reserved + most > self.most:
            return False
        self._reserved += most
        return True

    def settle(self, reserved: float, paid: float, *, lost: bool = False) -> None:
        """Replace what was put aside by what was paid; ``lost``: for a try that got no reply."""
        self._reserved -= reserved
        self.spent += paid
        if lost and paid:
            self._write({"cost": paid})


def _reply(data: Mapping[str, Any]) -> Reply:
    texts, finishes = tuple(map(str, data["texts"])), tuple(map(str, data["finishes"]))
    if not texts or len(texts) != len(finishes):
        raise ValueError("texts without their finishes")
    return Reply(texts, finishes, int(data["prompt_tokens"]), int(data["completion_tokens"]), bool(data["metered"]),
                 str(data.get("mark", "")))  # fmt: skip
