"""The engine for local models: any ``AutoModelForCausalLM`` folder or hub id, on CPU or CUDA.

On CPU a tiny model samples fastest as several processes of one thread each, and trains fastest in one process with all
threads; a larger one is better off with threads throughout. ``processes: auto`` chooses, and the choice is recorded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, PositiveInt

from selftaught.config import PromptConfig, Section
from selftaught.engines import _load
from selftaught.engines.base import Completion, Progress, Request, StopToken, Tokens, Tuned, TuneJob, never, quiet
from selftaught.errors import ModelError, Stopped
from selftaught.types import Checkpoint

# GNU OpenMP threads that spin while they wait make two busy processes ten times slower each; yielding after a thousand
# rounds costs a lone process a few percent (docs/LOG.md). Must be set before torch starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

TINY_BYTES = 200_000_000  # float32 weights below this: processes; above: threads
POLL_SECONDS = 0.2


class TorchEngine:
    class Options(Section):
        device: Literal["auto", "cpu", "cuda"] = "auto"
        dtype: Literal["auto", "float32", "bfloat16"] = "auto"
        processes: PositiveInt | Literal["auto"] = "auto"
        threads: PositiveInt | Literal["auto"] = "auto"
        max_rows: int = Field(default=256, ge=1)
        autocast: bool | Literal["auto"] = "auto"  # bf16 matrix products in training where the machine has them
        prompt: PromptConfig = PromptConfig()

    def __init__(self, options: TorchEngine.Options) -> None:
        self.options = options
        self._pool: ProcessPoolExecutor | None = None
        self._loaded: dict[str, Any] = {}

    # ------------------------------------------------------------ models

    def open(self, model: str) -> Checkpoint:
        return _load.open_checkpoint(model)

    def tokens(self, checkpoint: Checkpoint) -> Tokens:
        return _tokens(checkpoint.model, self.options.prompt)

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
            "autocast": self._autocast(),
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
        return "float32" if self.device == "cpu" and _weight_bytes(checkpoint.model) < TINY_BYTES else "bfloat16"

    def _threads(self) -> int:
        return os.cpu_count() or 1 if self.options.threads == "auto" else self.options.threads

    def _processes(self, checkpoint: Checkpoint) -> int:
        if self.options.processes != "auto":
            return self.options.processes
        tiny = self.device == "cpu" and _weight_bytes(checkpoint.model) < TINY_BYTES
        return (os.cpu_count() or 1) if tiny else 1

    def _autocast(self) -> bool:
        import torch

        if self.options.autocast != "auto":
            return self.options.autocast
        return self.device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def _model(self, checkpoint: Checkpoint) -> Any:
        import torch

        torch.set_num_threads(self._threads())
        if checkpoint.digest not in self._loaded:
            self._loaded = {checkpoint.digest: _load.load_model(checkpoint, self._dtype(checkpoint), self.device)}
        return self._loaded[checkpoint.digest]

    # ------------------------------------------------------------ generates, scores, tunes

    def generate(
        self, requests: Sequence[Request], *, stop: StopToken = never, progress: Progress = quiet
    ) -> Iterator[tuple[int, list[Completion]]]:
        _check_room(requests, self.tokens)
        gathered: dict[int, list[tuple[int, list[Completion]]]] = {}
        missing = {i: len(r.seeds) for i, r in enumerate(requests)}
        for finished in self._batches(requests, stop, progress):
            for part, completions in finished:
                gathered.setdefault(part.request, []).append((part.first, completions))
                missing[part.request] -= len(completions)
                if missing[part.request] == 0:
                    ordered = sorted(gathered.pop(part.request), key=lambda item: item[0])
                    yield part.request, [c for _, some in ordered for c in some]

    def _batches(self, requests: Sequence[Request], stop: StopToken, progress: Progress) -> Iterator[Any]:
        """Planned batches, on worker processes where that pays; requests of one call may name several checkpoints."""
        from selftaught.engines import _sample

        for checkpoint in {r.checkpoint.digest: r.checkpoint for r in requests}.values():
            mine = [i for i, r in enumerate(requests) if r.checkpoint.digest == checkpoint.digest]
            some = [requests[i] for i in mine]
            batches = _sample.plan(some, _cache_bytes(checkpoint.model), self.options.max_rows)
            if self._processes(checkpoint) > 1 and sum(len(r.seeds) for r in some) >= 2 * _sample.MIN_ROWS:
                results = self._spread(checkpoint, some, batches, stop, progress)
            else:
                model, tokens = self._model(checkpoint), self.tokens(checkpoint)
                results = _sample.run(model, tokens, some, batches, stop=stop, progress=progress)
            for finished in results:
                yield [(_sample.Part(mine[p.request], p.first, p.last), c) for p, c in finished]

    def _spread(
        self,
        checkpoint: Checkpoint,
        requests: Sequence[Request],
        batches: Sequence[Any],
        stop: StopToken,
        progress: Progress,
    ) -> Iterator[Any]:
        """Batches over worker processes of one thread each. Which worker runs a batch does not change its result."""
        pool = self._workers(self._processes(checkpoint))
        arguments = (checkpoint, self._dtype(checkpoint), self.options.prompt)
        largest = sorted(batches, key=lambda parts: -sum(len(p) for p in parts))
        with _without_main():  # a worker starts when the first work is handed in
            pending = {pool.submit(_work, *arguments, *_cut(requests, parts)): parts for parts in largest}
        done, total = 0, sum(len(r.seeds) for r in requests)
        try:
            while pending:
                finished, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                if stop():
                    raise Stopped
                for future in finished:
                    parts = pending.pop(future)
                    done += sum(len(p) for p in parts)
                    progress(done, total, "samples")
                    yield list(zip(parts, future.result(), strict=True))
        finally:
            _cancel(pending)
            if pending:
                self.close()

    def _workers(self, count: int) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker)
        return self._pool

    def score(
        self, checkpoint: Checkpoint, sequences: Sequence[tuple[int, ...]], *, stop: StopToken = never
    ) -> list[list[float]]:
        from selftaught.engines import _sample

        return _sample.score(self._model(checkpoint), sequences, stop=stop)

    def tune(self, job: TuneJob, out: Path, *, stop: StopToken = never, progress: Progress = quiet) -> Tuned:
        import torch

        from selftaught.engines import _tune

        torch.set_num_threads(self._threads())
        stored = _stored_dtype(job.parent.model) if job.kind == "lora" else "float32"
        model = _load.load_model(job.parent, stored, self.device)
        return _tune.tune(model, job, out, autocast=self._autocast(), stop=stop, progress=progress)

    def close(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


# ---------------------------------------------------------------- helpers


@lru_cache(maxsize=8)
def _tokens(folder: str, prompt: PromptConfig) -> _load.TextTokens:
    return _load.load_tokens(
        Path(folder), chat=prompt.use_chat_template, form=prompt.format, step_by_step=prompt.step_by_step
    )


def _weight_bytes(folder: str) -> int:
    return sum(p.stat().st_size for p in Path(folder).glob("*.safetensors"))


@lru_cache(maxsize=8)
def _cache_bytes(folder: str) -> int:
    from transformers import AutoConfig

    from selftaught.engines import _sample

    return _sample.cache_bytes_per_token(AutoConfig.from_pretrained(folder, trust_remote_code=False))


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


def _cut(requests: Sequence[Request], parts: Sequence[Any]) -> tuple[list[Request], list[Any]]:
    """Only what one batch needs, renumbered, to send to a worker."""
    from selftaught.engines._sample import Part

    chosen = [requests[p.request] for p in parts]
    return chosen, [Part(k, p.first, p.last) for k, p in enumerate(parts)]


def _cancel(pending: Mapping[Future[Any], Any]) -> None:
    for future in pending:
        future.cancel()


# ---------------------------------------------------------------- inside a worker

_WORKER: dict[str, Any] = {}


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """While workers start, no ``__main__``: else each runs the user's script again, which may hold no guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it terminates us
    import torch

    torch.set_num_threads(1)


def _work(
    checkpoint: Checkpoint, dtype: str, prompt: PromptConfig, requests: list[Request], parts: list[Any]
) -> list[list[Completion]]:
    from selftaught.engines import _sample

    if checkpoint.digest not in _WORKER:
        _WORKER.clear()
        _WORKER[checkpoint.digest] = _load.load_model(checkpoint, dtype, "cpu")
    tokens = _tokens(checkpoint.model, prompt)
    return [c for _, c in _sample.sample_batch(_WORKER[checkpoint.digest], tokens, requests, parts)]
