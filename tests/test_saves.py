"""Weights that are saved while training goes on: each can be loaded, and the last are those of a job that never did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from selftaught.engines import _tune
from selftaught.engines.base import Request, Tuned, TuneJob
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import NonFiniteError
from selftaught.types import Checkpoint, Example, Sampling

EXAMPLES = [Example((1, 5), (6, 7, 2), "a"), Example((1, 8), (9, 2), "b"), Example((1, 9), (70, 71, 72, 2), "c")]
STEPS = 6


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def llama(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Stored in this precision."""
    from transformers import AutoModelForCausalLM

    folder = tiny.checkpoint(tmp_path_factory.mktemp("llama"))
    if request.param == "bfloat16":
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def job(parent: Checkpoint, kind: str, *saves: int) -> TuneJob:
    batches = [[i % 3, (i + 1) % 3] for i in range(STEPS)]
    return TuneJob(parent, EXAMPLES, batches, kind, 1e-2, 2, 0.1, 1.0, 0.0, 4, 8, seed=7, saves=saves)


def weights(folder: Path) -> bytes:
    [path] = folder.glob("*.safetensors")
    return path.read_bytes()


def tuned(folder: Path, out: Path, kind: str, *saves: int) -> Tuned:
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, autocast=False))
    out.mkdir()
    found = engine.tune(job(engine.open(str(folder)), kind, *saves), out)
    engine.close()
    return found


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_saving_in_between_changes_no_bit_of_what_comes_after(llama: Path, tmp_path: Path, kind: str) -> None:
    plain, often = tuned(llama, tmp_path / "plain", kind), tuned(llama, tmp_path / "often", kind, 1, 3, STEPS)
    assert plain == often, "losses, norms and tokens"
    assert sorted(p.name for p in (tmp_path / "often").iterdir()) == ["1", "3", "6"]
    assert weights(tmp_path / "often" / "6") == weights(tmp_path / "plain")
    assert len({weights(tmp_path / "often" / n) for n in ("1", "3", "6")}) == 3, "training went on in between"
    names = {p.name for p in (tmp_path / "plain").iterdir()}
    assert all({p.name for p in (tmp_path / "often" / n).iterdir()} == names for n in ("1", "3", "6"))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_every_folder_is_a_model_that_from_pretrained_reads(llama: Path, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tuned(llama, tmp_path / "out", kind, 2, STEPS)
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, autocast=False))
    likely = []
    for name in ("2", "6"):
        folder = tmp_path / "out" / name
        if kind == "lora":
            base: Any = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
            model: Any = PeftModel.from_pretrained(base, folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[1, 9, 70, 71]])).logits[0].log_softmax(-1)
        likely.append(float(logits[1, 70] + logits[2, 71]))
        whole = Checkpoint("new", str(llama), str(folder)) if kind == "lora" else Checkpoint("new", str(folder))
        [(_, [completion])] = engine.generate([Request(whole, (1, 9), Sampling(max_tokens=3), (0,))])
        assert completion.ids
    engine.close()
    assert likely[1] > likely[0], "what was taught is likelier at the end"


def test_a_model_that_is_stored_in_another_precision_goes_on_in_its_own(tmp_path: Path) -> None:
    """Trained in float32 and stored in bfloat16: neither weights nor buffers are left rounded."""
    from transformers import AutoModelForCausalLM

    folder = tiny.checkpoint(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    found = {}
    for name, saves in (("plain", ()), ("often", (1, 2, 4, STEPS))):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        (tmp_path / name).mkdir()
        plan = job(Checkpoint("p", str(folder)), "full", *saves)
        found[name] = _tune.tune(model, plan, tmp_path / name, autocast=False)
    assert found["plain"] == found["often"]
    assert weights(tmp_path / "often" / "6") == weights(tmp_path / "plain")
    saved = load_file(next((tmp_path / "often" / "2").glob("*.safetensors")))
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}


def test_weights_that_left_the_numbers_are_not_saved_though_earlier_ones_were(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1, autocast=False))
    bad = [*EXAMPLES, replace(EXAMPLES[0], weight=float("nan"))]
    plan = replace(job(engine.open(str(folder)), "full", 1, 8), examples=bad, batches=[[0], *[[3]] * 7])
    (tmp_path / "out").mkdir()
    with pytest.raises(NonFiniteError, match="Training left the numbers"):
        engine.tune(plan, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["1"]
    engine.close()
