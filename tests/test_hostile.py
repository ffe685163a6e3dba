"""Files from strangers: nothing in them runs, nothing blows up, and each is refused with its reason.

Scorecard rows 14 (pickles), 15 (code and templates), 19 (paths, archives, YAML); docs/TRUST.md has the whole table.
"""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import time
import zipfile
from pathlib import Path

import pytest

import selftaught
import small
import tiny
from selftaught.config import parse_recipe
from selftaught.engines import _load
from selftaught.engines.torch_engine import TorchEngine
from selftaught.errors import DataError, ModelError, RecipeError, RunError, SelftaughtError
from selftaught.rollout import rollout
from selftaught.tasks._checkers import checker
from selftaught.tasks.jsonl import Jsonl
from selftaught.types import Checkpoint, Sampling, Task


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


class Evil:
    """Unpickling it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> object:
        return Path.touch, (self.canary,)


def open_and_use(model: Path, adapter: Path | None = None) -> str:
    """Load the model as a run does, and let it answer."""
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    try:
        found = engine.open(str(model))
        checkpoint = Checkpoint("x", found.model, str(adapter)) if adapter else found
        task = Task(({"role": "user", "content": "1+1"},), checker="number")
        checkers = {"number": checker("number")}
        [row] = rollout(engine, checkpoint, engine.tokens(found), [task], Sampling(max_tokens=4), checkers, run_seed=0)
        return row.text
    finally:
        engine.close()


# ---------------------------------------------------------------- row 14: pickles

WEIGHTS = ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt", "model.safetensors"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pickle_as_weights_is_refused_unread(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(ModelError, match=r"pickle"):
        open_and_use(folder)
    assert not canary.exists()
    pickle.loads((folder / name).read_bytes())
    assert canary.exists(), "the canary sings when it is unpickled"


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"])
def test_a_pickle_beside_good_weights_is_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (folder / name).write_bytes(pickle.dumps(Evil(canary)))
    open_and_use(folder)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_a_pickle_as_an_adapter_is_refused_unread(folder: Path, tmp_path: Path, name: str) -> None:
    canary, adapter = tmp_path / "canary", tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4,
                                                             "target_modules": ["q_proj"]}))  # fmt: skip
    (adapter / name).write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(ModelError, match="adapter"):
        open_and_use(folder, adapter)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["q.pkl", "q.jsonl", "q.parquet", "q.json"])
def test_a_pickle_as_questions_is_refused_unread(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Evil(canary)))
    with pytest.raises(DataError):
        Jsonl(Jsonl.Options(path=str(tmp_path / name))).load(0)
    assert not canary.exists()


# ---------------------------------------------------------------- row 15: code and templates


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_never_runs_it(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil:\n    pass\n")
    wants = {
        "AutoModelForCausalLM": "evil.Evil",
        "AutoConfig": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, "auto_map": wants}))
    with pytest.raises(ModelError, match=r"auto_map|own code"):
        open_and_use(folder)
    assert not canary.exists()


def test_no_recipe_can_turn_remote_code_on() -> None:
    for key in ("engine.trust_remote_code=true", "trust_remote_code=true", "prompt.trust_remote_code=true"):
        with pytest.raises(RecipeError, match="trust_remote_code"):
            selftaught.plan("self_consistency", [key])


TEMPLATES = {
    "globals": "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "import": "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "large range": "{% for i in range(10**9) %}x{% endfor %}",
    "long loop": "{% for i in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "no template": "{% for %}",
    "raises": "{{ raise_exception('only system messages') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_chat_template_runs_nothing_and_ends_in_time(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    (folder / "chat_template.jinja").write_text(TEMPLATES[name].replace("CANARY", str(canary)))
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"chat template cannot render"):
        open_and_use(folder)
    assert not canary.exists() and time.monotonic() - began < _load.TEMPLATE_SECONDS + 5


def test_a_question_is_never_a_template(folder: Path) -> None:
    engine = TorchEngine(TorchEngine.Options(processes=1, threads=1))
    question = "{% endraw %}{{ 7*7 }} {{ lipsum.__globals__ }}"
    tokens = engine.tokens(engine.open(str(folder)))
    assert question in tokens.render(({"role": "user", "content": question},), "chat")


# ---------------------------------------------------------------- row 19: paths, archives, YAML


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/evil", "..", "", "UPPER", "a\x00b", "a" * 65])
def test_a_run_cannot_be_named_out_of_its_folder(name: str) -> None:
    with pytest.raises(RecipeError, match="name"):
        small.recipe(f"name={json.dumps(name)}")


@pytest.mark.parametrize("model", ["bundled:../../../etc", "bundled:/etc", "bundled:..", "bundled:"])
def test_a_bundled_name_leads_nowhere_else(model: str) -> None:
    with pytest.raises(ModelError, match="no bundled model"):
        TorchEngine(TorchEngine.Options()).open(model)


@pytest.mark.parametrize("run", ["../../etc", "/etc", "..", "nothing/../.."])
def test_a_run_that_is_none_is_not_read(tmp_path: Path, run: str) -> None:
    with pytest.raises(RunError):
        selftaught.show(run, runs=tmp_path)


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_a_compressed_bomb_is_refused_packed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "q.jsonl"
    bomb = b'{"question": "' + b"9" * 50_000_000 + b'"}\n'
    if kind == "gzip":
        path.write_bytes(gzip.compress(bomb))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../q.jsonl", bomb)
    assert path.stat().st_size < 100_000, "it is a bomb"
    with pytest.raises(DataError, match=kind):
        Jsonl(Jsonl.Options(path=str(path))).load(0)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "name: one\nname: two\n",
        "x: !!python/object/apply:os.system ['true']\n",
        "[" * 5000,
        "? {a: 1}\n: 2\n",
    ],
    ids=["alias bomb", "duplicate key", "python tag", "deep", "a mapping as key"],
)
def test_hostile_yaml_is_a_clear_error(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(RecipeError):
        parse_recipe(text, "recipe.yaml")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("line", ["[" * 100_000, '{"question": 1e999}', '{"question": "a", "question": "b"}'])
def test_hostile_json_is_a_clear_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "1+1", "answer": "2"}\n' + line + "\n")
    with pytest.raises(SelftaughtError, match="line 2"):
        Jsonl(Jsonl.Options(path=str(tmp_path / "q.jsonl"))).load(0)
