"""How a step is cut into micro-batches, and what is done where memory does not suffice for one example."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from selftaught.engines import _tune
from selftaught.engines.base import TuneJob
from selftaught.types import Checkpoint, Example

LENGTHS = random.Random(1).choices((12, 30, 41, 48, 49, 63, 64, 80, 200), k=90)


def examples(lengths: list[int]) -> list[Example]:
    return [Example((1, 5), tuple((7 * i + k) % 250 + 5 for k in range(n - 2)), f"{i}") for i, n in enumerate(lengths)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"), context=256)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).train()


def gradients(model: Any, some: list[Example], tokens: int) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)  # GPT-2 has dropout
    loss, _ = _tune._backward(model, some, autocast=False, micro=tokens)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return loss, found


# ---------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("tokens", [4096, 1024, 256, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 9, 90])
def test_every_example_is_in_one_micro_batch_that_holds_it(tokens: int, count: int) -> None:
    cuts = list(_tune.micro_batches(examples(LENGTHS[:count]), tokens))
    assert sorted(e.text for part, _ in cuts for e in part) == sorted(map(str, range(count)))
    for part, (rows, width) in cuts:
        assert len(part) <= rows and max(map(_tune.length, part)) <= width
        assert rows * width <= tokens or rows == 1, "only one example may be more than what was asked for"
        assert rows < 2 * len(part), "empty rows are fewer than examples"
    widths = [width for _, (_, width) in cuts]
    assert widths == sorted(widths, reverse=True), "the largest comes first, so that memory runs out at once or never"


def test_padding_is_cut_off_but_not_for_nothing() -> None:
    shapes = [shape for _, shape in _tune.micro_batches(examples(LENGTHS), 4096)]
    assert sum(rows * width for rows, width in shapes) < 1.15 * sum(LENGTHS)
    assert len(shapes) <= 5, "a micro-batch costs something, too"
    alike = [shape for _, shape in _tune.micro_batches(examples([40] * 32 + [33] * 32), 4096)]
    assert alike == [(64, 40)]


def test_the_cut_is_the_cheapest_there_is() -> None:
    def every_cut(count: int) -> list[list[tuple[int, int]]]:
        if not count:
            return [[]]
        return [[*cut, (first, count)] for first in range(count) for cut in every_cut(first)]

    def cost(cut: list[tuple[int, int]]) -> int:
        return sum(sizes[first] * (last - first) + _tune.OVERHEAD for first, last in cut)

    generator = random.Random(3)
    for _ in range(20):
        sizes = sorted((8 * generator.randrange(8, 100, 8) for _ in range(8)), reverse=True)
        allowed = [c for c in every_cut(8) if all(sizes[a] * (b - a) <= 2048 or b == a + 1 for a, b in c)]
        assert cost(list(_tune._cheapest(sizes, 2048))) == min(map(cost, allowed))


def test_how_a_step_is_cut_changes_no_gradient(llama: Path) -> None:
    model, some = loaded(llama), examples(LENGTHS[:20])
    whole = gradients(model, some, 1 << 20)
    for tokens in (1024, 64):
        loss, found = gradients(model, some, tokens)
        assert loss == pytest.approx(whole[0], rel=1e-5) and torch.allclose(found, whole[1], rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_activations_that_are_computed_again_give_the_same_gradients(tmp_path: Path, architecture: str) -> None:
    model, some = loaded(tiny.checkpoint(tmp_path / architecture, architecture)), examples([30, 20, 9])
    kept = gradients(model, some, 4096)
    assert _tune.recompute_activations(model)
    again = gradients(model, some, 4096)
    assert again[0] == kept[0] and torch.equal(again[1], kept[1])
    assert not _tune.recompute_activations(model), "there is nothing more to save"


def test_an_adapter_learns_the_same_from_activations_that_are_computed_again(llama: Path) -> None:
    parent = Checkpoint("parent", str(llama))
    some, lora = examples([30, 20, 9]), TuneJob(parent, (), (), "lora", 1e-3, 1, 0.1, 1.0, 0.0, 4, 8, 7)
    torch.manual_seed(0)
    model = _tune.trainable(loaded(llama), lora).train()
    kept = gradients(model, some, 4096)
    assert _tune.recompute_activations(model)
    again = gradients(model, some, 4096)
    assert again[0] == kept[0] and torch.equal(again[1], kept[1]) and bool(kept[1].any())


LIMITED = """
import resource, sys, torch
from pathlib import Path
from transformers import AutoConfig, AutoModelForCausalLM
from selftaught.engines import _tune
from selftaught.engines._memory import release
from selftaught.errors import OutOfMemory
from selftaught.types import Example

torch.set_num_threads(1)
config = AutoConfig.from_pretrained(sys.argv[1])
config.num_hidden_layers = 8  # activations of all of them are much more than those of one
model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
short, some = ([Example((1, 5), tuple(k % 250 + 5 for k in range(n)), "")] for n in (5, 1000))
heard = []

def step(some):
    try:
        loss = _tune._gradients(model, some, False, 4096, lambda: False, lambda e, **f: heard.append((e, f)))[0]
        return loss, torch.cat([p.grad.flatten() for p in model.parameters()])
    finally:
        model.zero_grad(set_to_none=True)

step(short)
for megabytes in range(16, 2000, 16):  # upwards, to the first limit under which it works at all
    release()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    heard.clear()
    try:
        tight = step(some)
        break
    except OutOfMemory as error:
        assert "1 × 1008 tokens" in str(error) and model.is_gradient_checkpointing
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        model.gradient_checkpointing_disable()
assert [(e, f["gradient_checkpointing"]) for e, f in heard] == [("out of memory", True)], (megabytes, heard)
wide = step(some)
assert tight[0] == wide[0] and torch.equal(tight[1], wide[1])
print("the same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_one_example_that_does_not_fit_is_trained_on_with_its_activations_computed_again(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", context=1100)
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", LIMITED, str(model)],
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                                "MALLOC_MMAP_THRESHOLD_": "100000"},  # what is freed is given back
                           capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "the same\n"), found.stderr
