"""What an engine is: three small protocols, all plural, and the tokens that go in and out.

Requests and jobs each name their checkpoint and their seeds, so one call serves many checkpoints, and a result does not
depend on its neighbours. Results are yielded as they finish; ``stop()`` is asked often and ends work with ``Stopped``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from selftaught.types import Checkpoint, Example, Message, Sampling

StopToken = Callable[[], bool]
Progress = Callable[[int, int, str], None]  # done, total, unit


def never() -> bool:
    return False


def quiet(done: int, total: int, unit: str) -> None:
    """A Progress that shows nothing."""


class Notice(Protocol):
    """Hears what an engine mended on its way, or could not: "out of memory", "worker died", "worker hung", "step
    refused", "request failed"."""

    def __call__(self, event: str, **facts: str | int | float) -> None: ...


def unheard(event: str, **facts: str | int | float) -> None:
    """A Notice that nobody reads."""


@dataclass(frozen=True)
class Request:
    """``len(seeds)`` samples of one prompt from one checkpoint; sample i's randomness comes from ``seeds[i]`` alone."""

    checkpoint: Checkpoint
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """``ids`` with the end token if one was drawn; ``logprobs`` under the distribution sampled from, or none."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str  # "stop" (end token or stop string), "length" (token limit or context full)
    error: str | None = None  # why there is none, in a few words


@dataclass(frozen=True)
class TuneJob:
    """One update of one checkpoint. ``batches`` is the whole plan: for each step, indices into ``examples``."""

    parent: Checkpoint
    examples: Sequence[Example]
    batches: Sequence[Sequence[int]]
    kind: str  # "lora" or "full"
    lr: float
    warmup_steps: int
    min_lr_share: float
    clip: float
    weight_decay: float
    lora_rank: int
    lora_alpha: int
    seed: int
    lora_targets: tuple[str, ...] = ()  # linear layers ("q_proj"); none: all but the head (PEFT: all-linear)
    saves: tuple[int, ...] = ()  # after these steps weights are saved, in folders of ``out`` named so; none: at the end


@dataclass(frozen=True)
class Tuned:
    """What a job left behind: ``losses`` per step (mean over completion tokens) and the tokens that carried loss."""

    losses: tuple[float, ...]
    tokens: int
    grad_norms: tuple[float, ...] = field(default=())


@dataclass(frozen=True)
class TrialJob:
    """A throw-away adapter: trained from ``job.parent`` as ``job`` says (kind "lora"), then asked. Without batches it
    is the parent itself that is asked.

    ``prompts`` are answered, one completion each, by ``sampling`` (whose ``n`` is 1) with the seed beside it. ``golds``
    are completion ids, one per prompt, whose log-probabilities are wanted; none at all where they are not. ``keep`` is
    an empty folder for the adapter, in PEFT's format, where it is not to be thrown away.
    """

    job: TuneJob
    prompts: Sequence[tuple[int, ...]]
    sampling: Sampling
    seeds: Sequence[int]
    golds: Sequence[tuple[int, ...]] = ()
    keep: Path | None = None


@dataclass(frozen=True)
class Trialled:
    """What came of a TrialJob: how training went, a completion per prompt, natural-log probabilities per gold id.

    ``error`` says why there are no completions: training left the numbers. It costs this job alone.
    """

    tuned: Tuned
    completions: tuple[Completion, ...] = ()
    logprobs: tuple[tuple[float, ...], ...] = ()
    error: str | None = None


class Tokens(Protocol):
    """Text to ids and back, for one checkpoint. ``digest`` names the vocabulary the ids belong to."""

    digest: str
    context: int  # longest sequence, prompt and completion together
    has_bos: bool

    def render(self, messages: Sequence[Message], form: str) -> str:
        """The prompt as text, ready for the completion to follow. ``form``: "plain"; "cot" asks for steps; "raw" is the
        last message as it stands, with no template."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Prompt ids, with the begin-of-text token where the model has one; "" gives that token alone."""
        ...

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Completion ids, with the end token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of completion ids without special tokens, but with the markers of thoughts."""
        ...

    def lead(self, prompt: str) -> str:
        """What stands between a rendered prompt and an answer that is given, not sampled: the end of the thoughts that
        the prompt began, else a space where the prompt ends without one."""
        ...

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        """What a completion says once its thoughts are over; None where they never end. Answers are read from this."""
        ...

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        """How many of a completion's tokens are thoughts, markers included."""
        ...


class Generates(Protocol):
    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (request index, its completions in seed order) as requests finish. ``progress`` counts samples."""
        ...


class Scores(Protocol):
    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        """Natural-log probabilities of ids 1..n-1 of each sequence given what stands before them."""
        ...


class Tunes(Protocol):
    def tune(self, job: TuneJob, out: Path, *, stop: StopToken = never, progress: Progress = quiet) -> Tuned:
        """Train and write the new weights into the empty folder ``out``: a PEFT adapter or a full model folder, or one
        for each of ``job.saves``.

        Raises NonFiniteError before anything is written when a loss, gradient or weight is NaN or infinite.
        """
        ...


class Tries(Protocol):
    def trials(
        self, jobs: Sequence[TrialJob], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, Trialled]]:
        """Many throw-away adapters, trained and asked together; (index of the job, result) as they finish.

        A job's result is the same alone and among any others. ``progress`` counts jobs. One that leaves the numbers is
        a Trialled with an ``error``; jobs may differ in parent, rank, layers, rate and length.
        """
        ...


class Engine(Generates, Scores, Tunes, Tries, Protocol):
    """Everything the loop needs of a local model.

    ``notice`` may be set by whoever keeps a journal. What it hears changes no result; facts are plain JSON values.
    """

    notice: Notice

    def open(self, model: str) -> Checkpoint:
        """The checkpoint behind a folder, a hub id or ``bundled:NAME``. Raises ModelError saying what is wrong."""
        ...

    def tokens(self, checkpoint: Checkpoint) -> Tokens: ...

    def describe(self, checkpoint: Checkpoint) -> Mapping[str, str | int | float | bool]:
        """What a resumed run must reuse and a reader may ask: parameters, architecture, dtype, threads, processes."""
        ...

    def close(self) -> None: ...
