"""The engine for local models: any ``AutoModelForCausalLM`` folder or hub id, on CPU or CUDA.

On CPU a tiny model samples fastest as several processes of one thread each, and trains fastest in one process with all
threads; a larger one is better off with threads throughout. ``processes: auto`` chooses, and the choice is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from selftaught.config import PromptConfig, Section
from selftaught.engines import _folders, _load
from selftaught.engines._memory import SAMPLES, Room, enough, free_bytes
from selftaught.engines._pool import Pool, Served
from selftaught.engines.base import (
    Completion,
    Notice,
    Progress,
    Request,
    StopToken,
    TrialJob,
    Trialled,
    Tuned,
    TuneJob,
    never,
    quiet,
    unheard,
)
from selftaught.errors import ModelError, Stopped
from selftaught.types import Checkpoint

# GNU OpenMP threads that spin while they wait make two busy processes ten times slower each; yielding after a thousand
# rounds costs a lone process a few percent (docs/LOG.md). Must be set before torch starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

FREE_SHARE = 0.5  # of free memory, for keys and values, or for adapters
TRIAL_ROWS = 256  # of throw-away adapters that are sampled at once, unless the recipe says how many
TINY_BYTES = 200_000_000  # float32 weights below this: processes; above: threads


class TorchEngine:
    class Options(Section):
        device: Literal["auto", "cpu", "cuda"] = "auto"
        dtype: Literal["auto", "float32", "bfloat16"] = "auto"
        processes: PositiveInt | Literal["auto"] = "auto"
        threads: PositiveInt | Literal["auto"] = "auto"
        max_rows: PositiveInt | Literal["auto"] = "auto"  # sampled at once, in each process
        kernels: bool | Literal["auto"] = "auto"  # compiled ones, where a model is one for them
        patience: float = Field(default=600, gt=0)  # seconds without a token after which a worker counts as hung
        autocast: bool | Literal["auto"] = "auto"  # bf16 products in training and trials, where the machine has them
        prompt: PromptConfig = PromptConfig()

    def __init__(self, options: TorchEngine.Options) -> None:
        self.options = options
        self.notice: Notice = unheard
        self._pool: Pool | None = None
        self._loaded: dict[str, Any] = {}
        self._room = Room(*SAMPLES, self._tell)
        self._room_to_score = Room("scores", SAMPLES[1], self._tell)

    def _tell(self, event: str, **facts: str | int | float) -> None:
        self.notice(event, **facts)  # whoever listens by then

    # ------------------------------------------------------------ models

    def open(self, model: str) -> Checkpoint:
        return _folders.open_checkpoint(model)

    def tokens(self, checkpoint: Checkpoint) -> _load.TextTokens:
        return _load.load_tokens(checkpoint.model, self.options.prompt)

    def describe(self, checkpoint: Checkpoint) -> Mapping[str, str | int | float | bool]:
        import torch
        import transformers

        model = self._model(checkpoint)
        return {
            "architecture": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "device": self.device,
            "dtype": self._dtype(checkpoint),
            "threads": self._threads(),
            "processes": self._processes(checkpoint),
            "max_rows": self._slots(checkpoint),
            "kernels": self._sampler(checkpoint) == "kernels",
            "sampler": self._sampler(checkpoint),
            "autocast": self._autocast(),
            **self.tokens(checkpoint).facts(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }

    @property
    def device(self) -> str:
        import torch

        if self.options.device == "cuda" and not torch.cuda.is_available():
            raise ModelError("engine.device is cuda, but torch finds no CUDA device here.", hint="engine.device=auto")
        if self.options.device != "auto":
            return self.options.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _dtype(self, checkpoint: Checkpoint) -> str:
        if self.options.dtype != "auto":
            return self.options.dtype
        return "float32" if self._tiny(checkpoint) else "bfloat16"

    def _threads(self) -> int:
        return os.cpu_count() or 1 if self.options.threads == "auto" else self.options.threads

    def _processes(self, checkpoint: Checkpoint) -> int:
        if self.options.processes != "auto":
            return self.options.processes
        return (os.cpu_count() or 1) if self._tiny(checkpoint) else 1

    def _tiny(self, checkpoint: Checkpoint) -> bool:
        return self.device == "cpu" and _weight_bytes(checkpoint.model) < TINY_BYTES

    def _slots(self, checkpoint: Checkpoint) -> int:
        """Rows sampled at once: enough to keep a GPU or large weights busy; of tiny ones what stays near the cache."""
        if self.options.max_rows != "auto":
            return self.options.max_rows
        return 64 if self._tiny(checkpoint) else 256

    def _seats(self, checkpoint: Checkpoint, requests: Sequence[Request]) -> int:
        """The same, but not more than have room in the memory that is free now. No result depends on it."""
        from selftaught.engines import _batches

        context, cost = self.tokens(checkpoint).context, _cost(checkpoint.model)
        return _batches.seats(requests, context, cost, self._free(checkpoint), self._slots(checkpoint))

    def _free(self, checkpoint: Checkpoint) -> int:
        """Bytes that each process may fill."""
        return int(FREE_SHARE * free_bytes(self.device)) // self._processes(checkpoint)

    def _kernels(self, checkpoint: Checkpoint) -> str:
        """The path of compiled kernels where they may be used, else "". Raises ModelError where they must be and cannot
        be built. They run on one thread, so "auto" leaves large models to torch."""
        from selftaught.engines import _native

        if self.options.kernels == "auto":
            return _native.available() if self._tiny(checkpoint) else ""
        return _native.built() if self.options.kernels else ""

    def _sampler(self, checkpoint: Checkpoint) -> str:
        """The path that samples from a checkpoint. Raises ModelError where kernels must be used and do not fit it."""
        from selftaught.engines import _sample

        name = _sample.decoder(self._model(checkpoint), self._kernels(checkpoint)).name
        if self.options.kernels is True and name != "kernels":
            raise ModelError(
                "engine.kernels is true, and this model is none for them.",
                hint="They need a Llama-like model in float32 on a CPU. engine.kernels=auto does without them.",
            )
        return name

    def _autocast(self) -> bool:
        import torch

        if self.options.autocast != "auto":
            return self.options.autocast
        return self.device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def _model(self, checkpoint: Checkpoint) -> Any:
        import torch

        torch.set_num_threads(self._threads())
        if checkpoint.digest not in self._loaded:
            self._loaded = {}  # the one goes before the other comes
            self._loaded = {checkpoint.digest: _load.load_model(checkpoint, self._dtype(checkpoint), self.device)}
        return self._loaded[checkpoint.digest]

    # ------------------------------------------------------------ generates, scores, tunes

    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        _check_room(requests, self.tokens)
        gathered: dict[int, list[tuple[int, list[Completion]]]] = {}
        missing = {i: len(r.seeds) for i, r in enumerate(requests)}
        for part, completions in self._parts(requests, stop, progress):
            gathered.setdefault(part.request, []).append((part.first, completions))
            missing[part.request] -= len(completions)
            if missing[part.request] == 0:
                ordered = sorted(gathered.pop(part.request), key=lambda item: item[0])
                yield part.request, [c for _, some in ordered for c in some]

    def _parts(self, requests: Sequence[Request], stop: StopToken, progress: Progress) -> Iterator[Any]:
        """Planned batches, on worker processes where that pays; requests of one call may name several checkpoints."""
        import torch

        from selftaught.engines import _batches, _sample

        total = sum(len(r.seeds) for r in requests)
        before = 0

        def along(done: int, _: int, unit: str) -> None:
            progress(before + done, total, unit)

        for checkpoint in {r.checkpoint.digest: r.checkpoint for r in requests}.values():
            mine = [i for i, r in enumerate(requests) if r.checkpoint.digest == checkpoint.digest]
            some = [requests[i] for i in mine]
            most, workers = self._seats(checkpoint, some), self._processes(checkpoint)
            batches = _batches.plan(some, most, workers)
            if workers > 1 and sum(len(r.seeds) for r in some) >= 2 * _batches.MIN_ROWS:
                results = self._spread(checkpoint, some, batches, most, stop, along)
            else:
                model, tokens = self._model(checkpoint), self.tokens(checkpoint)
                if workers > 1:
                    torch.set_num_threads(1)  # as a worker has, so that few samples get the same bits as many
                results = _sample.run(
                    model, tokens, some, batches, self._room, most=most, kernels=self._kernels(checkpoint), stop=stop,
                    progress=along,
                )  # fmt: skip
            for part, found in results:
                yield _batches.Part(mine[part.request], part.first, part.last), found
            before += sum(len(r.seeds) for r in some)

    def _spread(
        self,
        checkpoint: Checkpoint,
        requests: Sequence[Request],
        batches: Sequence[Any],
        most: int,
        stop: StopToken,
        progress: Progress,
    ) -> Iterator[Any]:
        """Batches over worker processes of one thread each. Which worker runs a batch does not change its result."""
        served = Served(checkpoint, self._dtype(checkpoint), self.options.prompt, most, self._kernels(checkpoint))
        done, total = 0, sum(len(r.seeds) for r in requests)
        for finished in self._workers(checkpoint).run(served, requests, batches, stop):
            done += sum(len(part) for part, _ in finished)
            progress(done, total, "samples")
            yield from finished

    def _workers(self, checkpoint: Checkpoint) -> Pool:
        if self._pool is None:
            self._pool = Pool(self._processes(checkpoint), self.options.patience, self._tell)
        return self._pool

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        from selftaught.engines import _score

        return _score.score(self._model(checkpoint), sequences, self._room_to_score, stop=stop)

    def tune(self, job: TuneJob, out: Path, *, stop: StopToken = never, progress: Progress = quiet) -> Tuned:
        import torch

        from selftaught.engines import _tune

        torch.set_num_threads(self._threads())
        stored = _stored_dtype(job.parent.model) if job.kind == "lora" else "float32"
        if stop():  # loading cannot look
            raise Stopped
        merge = job.kind == "full"  # "lora" goes on with the parent's adapter where there is one
        with enough("for the model in training", _tune.LESS):
            model = _load.load_model(job.parent, stored, self.device, merge=merge)
        return _tune.tune(model, job, out, autocast=self._autocast(), stop=stop, progress=progress, notice=self._tell)

    def trials(
        self, jobs: Sequence[TrialJob], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, Trialled]]:
        from selftaught.engines import _trials

        for index, trial in enumerate(jobs):
            _trials.check(index, trial, self.tokens(trial.job.parent).context)
            _check_room([Request(trial.job.parent, p, trial.sampling, ()) for p in trial.prompts], self.tokens)
        done = 0
        for parent in {t.job.parent.digest: t.job.parent for t in jobs}.values():
            mine = [i for i, t in enumerate(jobs) if t.job.parent.digest == parent.digest]
            for i, found in self._tried(parent, jobs, mine, stop):
                done += 1
                progress(done, len(jobs), "adapters")
                yield i, found

    def _tried(
        self, parent: Checkpoint, jobs: Sequence[TrialJob], mine: Sequence[int], stop: StopToken
    ) -> Iterator[tuple[int, Trialled]]:
        """The jobs ``mine``, of one parent, on worker processes where that pays. No result depends on which."""
        import torch

        from selftaught.engines import _adapters, _trials

        workers, free, bf16 = self._processes(parent), self._free(parent), self._autocast()
        slots = TRIAL_ROWS if self.options.max_rows == "auto" else self.options.max_rows
        if workers > 1 and len(mine) >= _trials.MIN_JOBS:
            served = Served(parent, self._dtype(parent), self.options.prompt, slots, "", bf16, free)
            for finished in self._workers(parent).run(served, jobs, _trials.plan(jobs, mine, workers), stop):
                yield from ((part.request, found) for part, [found] in finished)
            return
        if stop():  # loading cannot look
            raise Stopped
        model, tokens = self._model(parent), self.tokens(parent)
        if workers > 1:
            torch.set_num_threads(1)  # as a worker has
        some, notice = [jobs[i] for i in mine], _adapters.numbered(self._tell, mine)
        for k, found in _trials.run(model, tokens, some, bf16=bf16, slots=slots, free=free, stop=stop, notice=notice):
            yield mine[k], found

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


# ---------------------------------------------------------------- helpers


def _weight_bytes(folder: str) -> int:
    return sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))


@lru_cache(maxsize=8)
def _cost(folder: str) -> Any:
    from transformers import AutoConfig

    from selftaught.engines import _batches

    return _batches.cost(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def _stored_dtype(folder: str) -> str:
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype
    return str(dtype).removeprefix("torch.") if dtype is not None else "float32"


def _check_room(requests: Sequence[Request], tokens: Any) -> None:
    for request in requests:
        context = tokens(request.checkpoint).context
        if len(request.prompt_ids) >= context:
            raise ModelError(
                f"A prompt of {len(request.prompt_ids)} tokens leaves no room in a context of {context}.",
                hint="Shorten the question, or use a model with a longer context.",
            )
        if not request.prompt_ids or request.sampling.max_tokens < 1:
            raise ValueError("a request has a prompt of one token at least, and asks for one at least")
