"""What the speed benchmarks share: random models, the clock, memory of a process of its own, results that stay."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

RESULTS = Path(__file__).parent / "results"
SHAPES = {  # (width, layers, heads, width of the MLP, vocabulary); two query heads share keys and values
    "1M": (128, 4, 4, 352, 2048),
    "10M": (256, 10, 8, 704, 8192),
    "50M": (512, 12, 8, 1408, 16384),
}


def llama(size: str, context: int = 1024) -> LlamaForCausalLM:
    """A random Llama of about that many parameters, head and embedding tied, as transformers draws it."""
    width, layers, heads, mlp, vocabulary = SHAPES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, max_position_embeddings=context,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process: other work on the machine counts for less than on the clock."""
    began = time.process_time()
    work()
    return time.process_time() - began


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median (least-most)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def memory(script: str, *words: Any) -> int:
    """Megabytes that a process of its own takes at most, all told: ``script --alone WORDS`` ends with ``say_peak``."""
    asked = [sys.executable, script, "--alone", json.dumps(words)]
    said = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(said.strip().splitlines()[-1])


def say_peak() -> None:
    """Only Linux says."""
    said = Path("/proc/self/status").read_text()  # what getrusage says, a child has from its parent
    print(int(said.partition("VmHWM:")[2].split()[0]) // 1024)


def keep(path: Path, found: Mapping[str, Any], **versions: str) -> None:
    """Put what one case gave on one model in the place of what it gave before."""
    before = json.loads(path.read_text())["results"] if path.exists() else []
    others = [r for r in before if (r["case"], r["model"]) != (found["case"], found["model"])]
    known = {"torch": torch.__version__, "transformers": transformers.__version__, **versions, "threads": 1}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**known, "results": [*others, found]}, indent=1) + "\n")
