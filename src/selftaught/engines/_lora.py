"""Adapters of the student in a vLLM that serves it, by vLLM's runtime LoRA API.

Each adapter gets a name of its own, made of its digest. To load another one under the same name would be shorter, but
vLLM then reuses cached prefixes of the old one (vllm-project/vllm issue 42125). An adapter that cannot be loaded ends
the run, to be resumed: going on would put another model's text on record as this one's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selftaught.engines._chat import REPLY_BYTES, Client, Failure
from selftaught.engines.base import Notice
from selftaught.errors import EndpointError
from selftaught.types import Checkpoint

MODELS_BYTES = 16 * REPLY_BYTES  # a server may know many models
HINT = (
    "vLLM loads adapters when it was started with --enable-lora (and a --max-lora-rank that suffices) and"
    " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, from a folder that it can read. What is finished is kept; go on with:"
    " selftaught resume"
)


class Adapters:
    """Which adapter of ours a server has now."""

    def __init__(self) -> None:
        self._now = ""

    async def name_of(self, checkpoint: Checkpoint, client: Client, notice: Notice) -> str:
        """The name under which the server answers as ``checkpoint``; its adapter, if any, is loaded first.

        Raises EndpointError where that fails. The one before is unloaded; where that fails, a notice says so.
        """
        if checkpoint.adapter is None:
            return client.terms.model
        name = f"selftaught-{checkpoint.digest[:16]}"
        if name == self._now:
            return name
        try:
            if name not in await _served(client):
                folder = str(Path(checkpoint.adapter).absolute())
                await _call(client, "/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except (Failure, ValueError, RecursionError) as error:
            raise EndpointError(f"{client.terms.url} did not load the adapter {checkpoint.adapter}: {error}",
                                hint=HINT) from error  # fmt: skip
        before, self._now = self._now, name
        notice("adapter loaded", name=name)
        if before:
            try:
                await _call(client, "/unload_lora_adapter", {"lora_name": before})
            except Failure as failure:
                notice("adapter not unloaded", name=before, detail=str(failure))
        return name


async def _served(client: Client) -> list[Any]:
    """The names that the server answers to."""
    body = await _call(client, "/models", None)
    data = json.loads(body.decode("utf-8"))
    found = data.get("data") if isinstance(data, dict) else None
    return [m.get("id") for m in found if isinstance(m, dict)] if isinstance(found, list) else []


async def _call(client: Client, path: str, body: dict[str, str] | None) -> bytes:
    status, _, said = await client.post(path, body, MODELS_BYTES)
    if status != 200:
        raise Failure(f"status {status}", said[:300].decode("utf-8", "replace"))
    return said
