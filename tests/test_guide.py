"""Guided decoding: every sample matches, the distribution is the exact one over what is allowed, rows stay apart."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
import vocabularies
from selftaught.config import PromptConfig
from selftaught.engines._guide import Guides, hold_open
from selftaught.engines._load import TextTokens
from selftaught.engines.base import Request
from selftaught.engines.scripted import Scripted
from selftaught.errors import ModelError, RecipeError
from selftaught.types import Guide, Sampling

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["x", "é"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = Guide("json", json.dumps(PERSON))
REGEX = Guide("regex", r"[0-9]{1,3}( über|\.[0-9]{2})?")
LARK = Guide("lark", 'start: "(" item ("," item){0,2} ")"\nitem: /[ab]{1,3}/ | start')
CHOICE = Guide("choice", json.dumps(["yes", "no", "日本 😀", 'a "b"\n']))


def is_person(text: str) -> bool:
    found = json.loads(text)
    assert set(found) <= {"name", "age", "tags"} and 0 <= found["age"] <= 150
    return len(found["name"]) <= 4 and set(found.get("tags", ())) <= {"x", "é"} and len(found.get("tags", ())) <= 2


def is_nested(text: str) -> bool:
    while text != (text := re.sub(r"\(([ab]{1,3}|X)(,([ab]{1,3}|X)){0,2}\)", "X", text)):
        pass
    return text == "X"


GUIDED: list[tuple[Guide, Callable[[str], object]]] = [
    (JSON, is_person),
    (REGEX, lambda text: re.fullmatch(REGEX.text, text)),
    (LARK, is_nested),
    (CHOICE, lambda text: text in json.loads(CHOICE.text)),
]
KINDS = [guide.kind for guide, _ in GUIDED]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another take most of the time of a model as small as this."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache
def tokens(kind: str) -> TextTokens:
    made = {
        "bytes": tiny.tokenizer,
        "byte_level": lambda: vocabularies.byte_level(eos_token="<|end|>"),
        "sentencepiece": lambda: vocabularies.sentencepiece(bos_token="<s>", eos_token="</s>"),
    }[kind]()
    return TextTokens(made, 128, PromptConfig(), 336)


@lru_cache
def model(width: int = 336) -> torch.nn.Module:
    """A random Llama; its logits are wider than any vocabulary here, as padded embeddings make them."""
    torch.manual_seed(0)
    config = tiny.config("llama")
    config.vocab_size = width
    made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return made


@dataclass
class Sample:
    ids: list[int]
    logprob: float
    finish: str


@torch.inference_mode()
def sample(some: TextTokens, guide: Guide, seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
    """The plainest loop there is: the whole text through the model for each token, no cache."""
    ends = frozenset({some.eos})
    guides = Guides(some, guide, ends, 336, len(seeds))
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    found = [Sample([], 0.0, "length") for _ in seeds]
    live = list(range(len(seeds)))
    for position in range(sampling.max_tokens):
        logits = model()(input_ids=torch.tensor([[5, *found[r].ids] for r in live])).logits[:, -1].float()
        early = torch.tensor([position < sampling.min_tokens] * len(live))
        allowed = hold_open(guides.allowed(live), sorted(ends), early)
        chances = torch.softmax(logits.masked_fill(~allowed, -torch.inf) / sampling.temperature, -1)
        ids = [int(torch.multinomial(p, 1, generator=dice[r])) for r, p in zip(live, chances, strict=True)]
        guides.take(live, ids)
        for row, token, p in zip(live, ids, chances, strict=True):
            found[row].ids.append(token)
            found[row].logprob += math.log(float(p[token]))
            found[row].finish = "stop" if token in ends else "length"
        live = [r for r in live if found[r].finish == "length"]
        if not live:
            break
    return found


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize("kind", ["bytes", "byte_level", "sentencepiece"])
@pytest.mark.parametrize(("guide", "fits"), GUIDED, ids=KINDS)
def test_every_sample_of_a_random_model_is_what_the_guide_says(guide, fits, kind):
    some = tokens(kind)
    found = sample(some, guide, range(24), Sampling(temperature=1.0, max_tokens=80))
    texts = [some.decode(s.ids) for s in found if s.finish == "stop"]
    assert len(texts) > 8 and len(set(texts)) > 2
    assert all(fits(text) for text in texts), texts
    assert all(s.ids[-1] == some.eos for s in found if s.finish == "stop")


def test_what_max_tokens_ends_is_cut_off():
    found = sample(tokens("bytes"), JSON, range(6), Sampling(temperature=1.0, max_tokens=5))
    assert {(s.finish, len(s.ids)) for s in found} == {("length", 5)}


def test_no_special_token_and_no_id_beyond_the_vocabulary_is_ever_allowed():
    some = tokens("sentencepiece")
    guides = Guides(some, Guide("regex", "(.|\n)*"), frozenset({some.eos}), 336, 1)
    free = set(guides.allowed([0])[0].nonzero()[:, 0].tolist())
    assert free - {some.eos} < set(range(len(some.tokenizer))) - set(some.tokenizer.all_special_ids)
    assert some.eos in free, "nothing is a text too"


def test_logits_may_be_narrower_than_the_vocabulary():
    some = tokens("sentencepiece")
    narrow = Guides(some, REGEX, frozenset({some.eos}), len(some.tokenizer) - 1, 1)
    wide = Guides(some, REGEX, frozenset({some.eos}), 336, 1)
    assert torch.equal(narrow.allowed([0])[0], wide.allowed([0])[0, : len(some.tokenizer) - 1])


# ---------------------------------------------------------------- how likely


@torch.inference_mode()
def exact(some: TextTokens, texts: Sequence[str]) -> dict[str, float]:
    """Probability of each text under the model, if at each step only a, b and the end may follow where they may."""
    a, b = (some.tokenizer.convert_tokens_to_ids(f"<0x{ord(c):02X}>") for c in "ab")
    chance = {}
    for text in texts:
        ids, total = [a if c == "a" else b for c in text], 0.0
        for i, token in enumerate([*ids, some.eos]):
            may = [a, b][: 2 * (i < 2)] + [some.eos][: i > 0]
            logits = model()(input_ids=torch.tensor([[5, *ids[:i]]])).logits[0, -1, may].float()
            total += float(torch.log_softmax(logits, -1)[may.index(token)])
        chance[text] = math.exp(total)
    return chance


def test_texts_come_as_often_as_the_exact_distribution_over_what_is_allowed_says():
    some, texts, n = tokens("bytes"), ["a", "b", "aa", "ab", "ba", "bb"], 3000
    expected = exact(some, texts)
    assert sum(expected.values()) == pytest.approx(1) and min(expected.values()) > 0.004
    found = sample(some, Guide("regex", "[ab]{1,2}"), range(n), Sampling(temperature=1.0, max_tokens=9))
    counts = Counter(some.decode(s.ids) for s in found)
    assert set(counts) == set(texts)
    chi_square = sum((counts[t] - n * p) ** 2 / (n * p) for t, p in expected.items())
    assert chi_square < 20.52, "p < 0.001 at 5 degrees of freedom"
    assert all(s.logprob == pytest.approx(math.log(expected[some.decode(s.ids)]), abs=1e-4) for s in found)


def test_rows_do_not_influence_one_another():
    some, sampling = tokens("byte_level"), Sampling(temperature=1.0, max_tokens=60)
    together = sample(some, JSON, range(16), sampling)
    assert len({tuple(s.ids) for s in together}) > 8
    for seed in (0, 7, 15):
        assert sample(some, JSON, [seed], sampling)[0].ids == together[seed].ids


def test_a_row_begins_anew_while_the_others_go_on():
    some = tokens("bytes")
    guides = Guides(some, Guide("choice", '["ab", "cd"]'), frozenset({some.eos}), 260, 2)
    a, c, d = some.tokenizer.encode("acd", add_special_tokens=False)
    first = guides.allowed([0])[0]
    assert guides.allowed([]).shape == (0, 260)
    guides.take([0, 1], [a, c])
    guides.reset(0)
    now = guides.allowed([0, 1])
    assert torch.equal(now[0], first) and first[[a, c]].all() and int(first.sum()) == 2
    assert now[1].nonzero().tolist() == [[d]]


# ---------------------------------------------------------------- when it may end


def test_min_tokens_keeps_the_end_away_but_the_guide_has_the_last_word():
    some, any_length = tokens("bytes"), Guide("regex", "[ab]{1,9}")
    plain = sample(some, any_length, range(40), Sampling(temperature=1.0, max_tokens=20))
    held = sample(some, any_length, range(40), Sampling(temperature=1.0, max_tokens=20, min_tokens=6))
    assert min(len(s.ids) for s in plain) < 7 <= min(len(s.ids) for s in held), "six, and then the end token"
    short = sample(some, Guide("regex", "[ab]{2}"), range(9), Sampling(temperature=1.0, max_tokens=20, min_tokens=6))
    assert {(s.finish, len(s.ids)) for s in short} == {("stop", 3)}


def test_only_the_early_rows_are_held_open():
    allowed = torch.tensor([[True, True, False], [True, True, False], [False, True, False]])
    held = hold_open(allowed, [1, 2], torch.tensor([True, False, True]))
    assert held.tolist() == [[True, False, False], [True, True, False], [False, True, False]]


def test_all_end_tokens_count():
    some = tokens("bytes")
    guides = Guides(some, Guide("regex", "a"), frozenset({some.eos, 0}), 260, 1)
    guides.take([0], some.tokenizer.encode("a", add_special_tokens=False))
    assert guides.allowed([0])[0].nonzero()[:, 0].tolist() == [0, some.eos]


# ---------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (Guide("json", '{"type": "intger"}'), "Invalid type: intger"),
        (Guide("json", '{"type": '), "JSON|EOF"),
        (Guide("json", '{"type": "array", "uniqueItems": true}'), "uniqueItems"),
        (Guide("regex", "a(b"), "unclosed group"),
        (Guide("lark", 'start: "a" | b'), 'unknown name: "b"'),
        (Guide("choice", "yes or no"), "Expecting value"),
        (Guide("choice", "[]"), "none of them empty"),
    ],
    ids=lambda value: getattr(value, "text", ""),
)
def test_a_guide_that_cannot_be_compiled_is_refused_with_the_reason(guide, said):
    some = tokens("bytes")
    with pytest.raises(RecipeError, match=said) as refused:
        Guides(some, guide, frozenset({some.eos}), 260, 1)
    assert f"({guide.kind})" in refused.value.message and repr(guide.text[:80]) in refused.value.hint


def test_a_model_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match="no end token, so a sample under a guide could not end"):
        Guides(tokens("bytes"), REGEX, frozenset(), 260, 1)


def test_a_token_that_was_not_allowed_is_named():
    some = tokens("bytes")
    guides = Guides(some, REGEX, frozenset({some.eos}), 260, 1)
    with pytest.raises(ModelError, match=r"cannot go on under its guide \(regex\).*doesn't satisfy the grammar"):
        guides.take([0], some.tokenizer.encode("z", add_special_tokens=False))


def test_characters_that_the_vocabulary_cannot_write_are_an_error():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.BPE(vocab={"</s>": 0, "a": 1, "b": 2}, merges=[]))
    letters.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    some = TextTokens(PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>"), 8, PromptConfig(), 3)
    guides = Guides(some, Guide("regex", "aé"), frozenset({0}), 3, 1)
    guides.take([0], [1])
    with pytest.raises(ModelError, match="cannot go on under its guide"):
        guides.allowed([0])


def test_the_scripted_engine_says_that_it_follows_none():
    engine = Scripted(Scripted.Options())
    request = Request(engine.open("scripted:0.6"), (1, 2), Sampling(guide=REGEX), (0,))
    with pytest.raises(ModelError, match="follows no guide"):
        list(engine.generate([request]))
