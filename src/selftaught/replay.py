"""Text that no method made, mixed into every update against forgetting: what the base writes unprompted."""

from __future__ import annotations

from selftaught.bench import RunBench
from selftaught.setting import Setting
from selftaught.types import Example, Sampling, Task


def mixed_in(setting: Setting, bench: RunBench) -> list[Example]:
    """The base's own unprompted text: replay against forgetting (2505.13811), with no label in it."""
    config = setting.recipe.train
    if not config.replay:
        return []
    sampling = Sampling(config.replay_samples, 1.0, max_tokens=config.replay_max_tokens)
    task = Task((), checker=bench.tasks[0].checker, source="replay")
    [(_, rollouts)] = bench.sample(setting.base, setting.recipe.seed, [task], sampling)
    whole = [r for r in rollouts if r.error is None and r.text.strip()]
    bench.note("replay sampled", len(rollouts))
    bench.note("replay truncated", len(rollouts) - len(whole))
    return [Example(r.prompt_ids, r.completion_ids, r.text, source="replay", parents=(r.id,)) for r in whole]
