"""Drive tasks through an engine: render, sample, parse. A failure becomes a value with ``error``, never a lost row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selftaught.engines.base import Completion, Generates, Progress, Request, StopToken, Tokens, never, quiet
from selftaught.stopping import heeding
from selftaught.tasks.base import Checker
from selftaught.types import Checkpoint, Rollout, Sampling, Task, seed_for

TRUNCATED = "truncated"  # hit the token limit before the end token: not an answer, not a vote
UNFINISHED = "thoughts without an end"  # it stopped, and had not begun to answer
LOOK = 256  # prompts rendered between two looks at the stop token
NO_ROOM = "prompt longer than the context"


def rollout(
    engine: Generates,
    checkpoint: Checkpoint,
    tokens: Tokens,
    tasks: Sequence[Task],
    sampling: Sampling,
    checkers: Mapping[str, Checker],
    *,
    run_seed: int,
    first: int = 0,
    stop: StopToken = never,
    progress: Progress = quiet,
) -> list[Rollout]:
    """Samples ``first`` .. ``first + n - 1`` of every task, ordered by task, then sample.

    Sample i of a task draws its randomness from (run seed, task id, checkpoint, i) alone; so a task that stands
    twice is sampled once and answered twice the same.
    """
    prompts = {t.id: tokens.encode(tokens.render(t.prompt, t.form)) for t in heeding(stop, tasks, LOOK)}
    fits = [t for t in {t.id: t for t in tasks}.values() if len(prompts[t.id]) < tokens.context]
    requests = [
        Request(checkpoint, prompts[t.id], sampling, _seeds(run_seed, t, checkpoint, first, sampling.n)) for t in fits
    ]
    done: dict[str, list[Rollout]] = {}
    for index, completions in engine.generate(requests, stop=stop, progress=progress):
        task, request = fits[index], requests[index]
        pairs = enumerate(zip(request.seeds, completions, strict=True), start=first)
        done[task.id] = [_rollout(task, request, i, seed, c, tokens, checkers[task.checker]) for i, (seed, c) in pairs]
    for task in tasks:
        if task.id not in done:
            done[task.id] = [_no_room(task, checkpoint, tokens, prompts[task.id], first + i) for i in range(sampling.n)]
    return [r for task in tasks for r in done[task.id]]


def _seeds(run_seed: int, task: Task, checkpoint: Checkpoint, first: int, n: int) -> tuple[int, ...]:
    return tuple(seed_for(run_seed, "sample", task.id, checkpoint.digest, i) for i in range(first, first + n))


def _rollout(
    task: Task, request: Request, index: int, seed: int, completion: Completion, tokens: Tokens, checker: Checker
) -> Rollout:
    text = tokens.decode(completion.ids)
    said = tokens.said(request.prompt_ids, text)
    cut = TRUNCATED if completion.finish == "length" else UNFINISHED if said is None else None
    error = completion.error or cut
    return Rollout(
        task_id=task.id,
        index=index,
        author=request.checkpoint.digest,
        tokenizer=tokens.digest,
        prompt_ids=request.prompt_ids,
        completion_ids=completion.ids,
        logprobs=completion.logprobs,
        text=text,
        seed=seed,
        answer=checker.parse(said) if said is not None and error is None else None,
        error=error,
    )


def _no_room(task: Task, checkpoint: Checkpoint, tokens: Tokens, prompt: tuple[int, ...], index: int) -> Rollout:
    return Rollout(task.id, index, checkpoint.digest, tokens.digest, prompt, (), (), "", 0, None, NO_ROOM)
