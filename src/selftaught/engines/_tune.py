"""One update of one model: LoRA (PEFT format) or full fine-tuning, in plain PyTorch. Padding is never in a loss."""

from __future__ import annotations

import copy
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from selftaught.engines._folders import name_base
from selftaught.engines._load import with_adapter
from selftaught.engines._losses import LOSSES
from selftaught.engines._memory import enough, exhausted, first_line, release
from selftaught.engines.base import Notice, Progress, StopToken, Tuned, TuneJob, never, quiet, unheard
from selftaught.errors import NonFiniteError, OutOfMemory, Stopped
from selftaught.types import Example

MICRO_TOKENS = 4096  # padded tokens that are run at once; halved where memory does not suffice for them,
MIN_MICRO_TOKENS = 64  # down to these, or to one example at once
WIDTH_STEP = 8  # widths of padded rows
BLOCK = 8  # examples that are never parted, nearest in length, so that there are few numbers of rows
OVERHEAD = 256  # tokens: what a micro-batch costs besides its own
KEPT = (".json", ".jinja", ".model", ".txt")  # configs and tokenizer files that go along with new weights
MAX_REFUSED = 3  # non-finite steps that are skipped before the job gives up
LESS = "Lower curate.max_tokens (shorter examples), use train.kind=lora, or a smaller model."


def learning_rate(step: int, steps: int, job: TuneJob) -> float:
    """Linear warm-up, then a cosine down to ``min_lr_share`` of the peak."""
    warm = min(1.0, (step + 1) / max(1, job.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    return job.lr * warm * (job.min_lr_share + (1 - job.min_lr_share) * cosine)


def collate(
    examples: Sequence[Example], device: Any, shape: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention mask and loss weights, each [B, T], padded on the right; prompts and padding weigh nothing.

    ``shape`` asks for a larger (B, T): further rows hold one token that nobody is taught.
    """
    rows, width = shape or (len(examples), max(map(length, examples)))
    ids = torch.zeros((rows, width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1  # a row that attends to nothing would be NaN
    weights = torch.zeros((rows, width))
    for row, e in enumerate(examples):
        start, end = len(e.prompt_ids), length(e)
        ids[row, :end] = torch.tensor(e.prompt_ids + e.completion_ids)
        mask[row, :end] = 1
        weights[row, start:end] = e.weight
    return ids.to(device), mask.to(device), weights.to(device)


def length(example: Example) -> int:
    return len(example.prompt_ids) + len(example.completion_ids)


def trainable(model: Any, job: TuneJob) -> Any:
    """The model to train: itself in float32 for "full", wrapped by PEFT on all linear layers for "lora".

    Where the parent is a model with an adapter, "lora" goes on training that adapter, so that one adapter on the base
    is all there is to save. Its own rank, alpha and layers then stand, whatever the job says of them.
    """
    if job.kind == "full":
        return model.float().requires_grad_(True)  # PEFT freezes what it merged into
    if job.parent.adapter:
        return with_adapter(model, Path(job.parent.adapter), trainable=True)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=job.lora_rank, lora_alpha=job.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def tune(
    model: Any,
    job: TuneJob,
    out: Path,
    *,
    autocast: bool,
    stop: StopToken = never,
    progress: Progress = quiet,
    notice: Notice = unheard,
) -> Tuned:
    """Train ``model`` in place by the job's plan and save it to ``out``. Nothing is written if it left the numbers.

    ``model`` is the parent without its adapter for "lora", with it merged for "full".
    """
    torch.manual_seed(job.seed % 2**63)
    stored = next(model.parameters()).dtype
    model = trainable(model, job).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=job.lr, betas=(0.9, 0.98), weight_decay=job.weight_decay, fused=True)
    losses: list[float] = []
    norms: list[float] = []
    tokens = refused = 0
    micro = MICRO_TOKENS
    for step, batch in enumerate(job.batches):
        if stop():
            raise Stopped
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(job.batches), job)
        loss, count, micro = _gradients(model, [job.examples[i] for i in batch], autocast, micro, stop, notice)
        norm = float(torch.nn.utils.clip_grad_norm_(learned, job.clip))
        if math.isfinite(loss) and math.isfinite(norm):
            with enough("for the optimizer's state", LESS):
                optimizer.step()
        else:
            refused = _refuse(step, loss, norm, refused)
            notice("step refused", step=step, loss=str(loss), norm=str(norm), refused=refused)
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        norms.append(norm)
        tokens += count
        progress(step + 1, len(job.batches), "steps")
        if step + 1 in job.saves:
            _save_between(model, job, out / str(step + 1), stored)
    if not job.saves:
        _save(model, job, out, stored)
    return Tuned(tuple(losses), tokens, tuple(norms))


def _gradients(
    model: Any, examples: Sequence[Example], autocast: bool, micro: int, stop: StopToken, notice: Notice
) -> tuple[float, int, int]:
    """``_backward``, with less at once where memory does not suffice: (mean loss, tokens, size of micro-batches).

    Where one example is too much, activations are computed again in the backward pass, from then on.
    """
    while True:
        try:
            return *_backward(model, examples, autocast, micro, stop), micro
        except Exception as error:
            if not exhausted(error):
                raise
            said = first_line(error)
        model.zero_grad(set_to_none=True)  # a part of the step is in there
        release()
        before, smaller = micro, _less(examples, micro)
        micro = smaller or micro
        if not smaller and not recompute_activations(model):
            rows, width = next(micro_batches(examples, micro))[1]
            raise OutOfMemory(f"Memory does not suffice to train on {rows} × {width} tokens at once: {said}", hint=LESS)
        notice("out of memory", during="training", micro_tokens=before, now=micro,
               gradient_checkpointing=not smaller, said=said)  # fmt: skip


def _less(examples: Sequence[Example], micro: int) -> int | None:
    """The next smaller size that cuts this step otherwise, if there is one."""
    before = [shape for _, shape in micro_batches(examples, micro)]
    while micro // 2 >= MIN_MICRO_TOKENS and max(rows for rows, _ in before) > 1:
        micro //= 2
        if [shape for _, shape in micro_batches(examples, micro)] != before:
            return micro
    return None


def recompute_activations(model: Any) -> bool:
    """Switch gradient checkpointing on (Chen et al. 2016): the same gradients from less memory and one more forward.

    False where the architecture has no support for it, or where it is on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # later versions of transformers name these otherwise
        if model.is_gradient_checkpointing or not model.supports_gradient_checkpointing:
            return False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return True


def _backward(
    model: Any, examples: Sequence[Example], autocast: bool, micro: int = MICRO_TOKENS, stop: StopToken = never
) -> tuple[float, int]:
    """Gradients of one step, accumulated over micro-batches of like lengths; (mean loss, tokens that carried it)."""
    total = sum(len(e.completion_ids) for e in examples)
    loss = 0.0
    for part, shape in micro_batches(examples, micro):
        if stop():
            raise Stopped
        ids, mask, weights = collate(part, model.device, shape)
        with torch.autocast(model.device.type, dtype=torch.bfloat16) if autocast else nullcontext():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        mean = LOSSES[part[0].loss](logits, ids, weights) / max(1, total)
        mean.backward()  # type: ignore[no-untyped-call]
        loss += float(mean.detach())
    return loss, total


def micro_batches(
    examples: Sequence[Example], tokens: int = MICRO_TOKENS
) -> Iterator[tuple[list[Example], tuple[int, int]]]:
    """Split a step into (examples of one loss and like lengths, padded shape of about ``tokens``), longest first.

    Shapes are few (widths in steps of ``WIDTH_STEP``, rows in ``BLOCK``s; few rows in powers of two): one that the
    matrix library has not met costs it more than some padding does. Of all such cuts it is the cheapest (docs/LOG.md).
    """
    for loss in sorted({e.loss for e in examples}):
        some = sorted((e for e in examples if e.loss == loss), key=length, reverse=True)
        fit = max(1, tokens // padded(length(some[0])))
        block = min(BLOCK, 1 << fit.bit_length() - 1)
        widths = [padded(length(e)) for e in some[::block]]
        for first, last in _cheapest([block * width for width in widths], tokens):
            part = some[block * first : block * last]
            yield part, (min(block * (last - first), 1 << (len(part) - 1).bit_length()), widths[first])


def _cheapest(sizes: Sequence[int], tokens: int) -> Iterator[tuple[int, int]]:
    """Cut blocks of falling sizes into runs (first, last) of at most ``tokens`` that cost least in all.

    In a run every block costs as much as its first, and each run ``OVERHEAD`` besides. Shortest path, from the end.
    """
    count = len(sizes)
    cost, cut = [0] * (count + 1), [0] * count
    for first in reversed(range(count)):
        fits = max(1, tokens // sizes[first])
        cost[first], cut[first] = min(
            (sizes[first] * (last - first) + OVERHEAD + cost[last], last)
            for last in range(first + 1, min(count, first + fits) + 1)
        )
    first = 0
    while first < count:
        yield first, cut[first]
        first = cut[first]


def padded(tokens: int) -> int:
    return -(-max(1, tokens) // WIDTH_STEP) * WIDTH_STEP


def _refuse(step: int, loss: float, norm: float, refused: int) -> int:
    if refused >= MAX_REFUSED:
        raise NonFiniteError(
            f"Training left the numbers: step {step} has loss {loss} and gradient norm {norm}, after "
            f"{refused} refused steps. Nothing was saved; the parent is untouched.",
            hint="Lower train.lr, or raise train.warmup.",
        )
    return refused + 1


def _save_between(model: Any, job: TuneJob, out: Path, stored: torch.dtype) -> None:
    """Save and go on. To store a model in another precision rounds its numbers, so then it is a copy that is saved."""
    out.mkdir()
    rounded = job.kind == "full" and stored != torch.float32
    with enough("for a copy of the model", LESS):
        saved = copy.deepcopy(model) if rounded else model
    _save(saved, job, out, stored)
    model.train()


def _save(model: Any, job: TuneJob, out: Path, stored: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise NonFiniteError(
                f"After training, {name} holds NaN or infinite values. Nothing was saved.",
                hint="Lower train.lr, or raise train.warmup.",
            )
    try:
        with enough("to save the model", LESS):
            _write(model, job, out, stored)
    except BaseException:
        for path in [*out.iterdir()]:  # nothing half written
            path.unlink()
        raise


def _write(model: Any, job: TuneJob, out: Path, stored: torch.dtype) -> None:
    base = Path(job.parent.model)
    if job.kind == "full":
        model = model.to(stored)
        for path in base.iterdir():
            if path.is_file() and not path.name.startswith("model") and path.suffix in KEPT:
                shutil.copyfile(path, out / path.name)
    else:
        for config in model.peft_config.values():
            for name, value in [*vars(config).items()]:
                if isinstance(value, set):  # whose order would differ from process to process
                    setattr(config, name, sorted(value))
            config.base_model_name_or_path = str(base)  # where PEFT looks for it while it saves
    model.eval().save_pretrained(out, safe_serialization=True)
    if job.kind == "lora":
        name_base(out, base)
        (out / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in, with this machine's path in it
