"""A Lab whose models are told exactly what they write, recite and find likely, for tests of audits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from selftaught.audits.base import Answered, Ids
from selftaught.engines.scripted import BOS, ByteTokens
from selftaught.types import Canary, Checkpoint, Private, Rollout, Sampling

BASE, FIRST, SECOND = (Checkpoint(name, name) for name in ("base", "first", "second"))


@dataclass
class FakeLab:
    """``writes``: (model, draw) -> the token ids of its unprompted texts. ``knows``: model -> texts that it recites
    after ``needs`` tokens of them. ``likes``: (model, ids) -> log-probabilities of ids 1..n-1."""

    seed: int = 3
    tokens: ByteTokens = field(default_factory=lambda: ByteTokens(4096))
    private: Sequence[Private] = ()
    canaries: Sequence[Canary] = ()
    texts: Sequence[Ids] = ()
    written: Sequence[Ids] = ()
    taught: Mapping[str, Sequence[tuple[Ids, Ids]]] = field(default_factory=dict)
    votes: Sequence[tuple[float, float]] = ()
    unprompted: bool = True
    writes: Callable[[str, int], Sequence[Ids]] = lambda model, draw: ()
    knows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs: int = 1
    likes: Callable[[str, Ids], list[float]] = lambda model, ids: [-1.0] * (len(ids) - 1)
    answers: Mapping[str, Mapping[str, Answered]] = field(default_factory=dict)
    fed: list[Ids] = field(default_factory=list)  # every prefix that was to be continued

    def sample(self, checkpoint: Checkpoint, sampling: Sampling, draw: int = 0) -> list[Rollout]:
        rows = self.writes(checkpoint.digest, draw)
        return [
            Rollout("", i, checkpoint.digest, "t", (BOS,), ids, (), self.tokens.decode(ids), i)
            for i, ids in enumerate(rows)
        ]

    def continued(self, checkpoint: Checkpoint, prefixes: Sequence[Ids], tokens: int) -> list[Ids]:
        self.fed += prefixes
        return [self._continued(checkpoint.digest, prefix, tokens) for prefix in prefixes]

    def _continued(self, model: str, prefix: Ids, tokens: int) -> Ids:
        begun = bytes(i for i in prefix if i < BOS)
        for text in self.knows.get(model, ()) if len(begun) >= self.needs else ():
            if (at := text.encode().find(begun)) >= 0:
                return self.tokens.encode_completion(text)[at + len(begun) :][:tokens]
        return self.tokens.encode_completion("?")

    def score(self, checkpoint: Checkpoint, sequences: Sequence[Ids]) -> list[list[float]]:
        return [self.likes(checkpoint.digest, ids) for ids in sequences]

    def answered(self, checkpoint: Checkpoint) -> Mapping[str, Answered]:
        return self.answers.get(checkpoint.digest, {})
