"""Thoughts: answers are read after them, they are learned whole, shown to nobody, counted, and can be switched off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

import small
from selftaught.config import PromptConfig, parse_recipe, to_yaml
from selftaught.engines._load import TextTokens
from selftaught.engines._thoughts import Markers, markers
from selftaught.engines.base import Completion, Request
from selftaught.engines.scripted import ByteTokens, Scripted
from selftaught.errors import ModelError, RecipeError
from selftaught.measure import measure
from selftaught.rollout import TRUNCATED, UNFINISHED, rollout
from selftaught.store import Store
from selftaught.types import Checkpoint, Message, Sampling, Task
from vocabularies import MISTRAL, QWEN3, R1, byte_level, sentencepiece

ASK: list[Message] = [{"role": "user", "content": "2+2"}]
THINK = Markers("<think>", "</think>")


def tokens(template: str | None = QWEN3, added: Sequence[Any] = ("<think>", "</think>"), **prompt: Any) -> TextTokens:
    made = byte_level(added=tuple(added), bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return TextTokens(made, 256, PromptConfig(**prompt), len(made))


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("text", "opened", "said"),
    [
        ("4", False, "4"),
        ("<think>2+2 is 5</think>\n\n4", False, "\n\n4"),
        ("2+2 is 5</think>4", True, "4"),
        ("2+2 is 5</think>4", False, "4"),  # it may close what nobody opened
        ("<think>is it 4?", False, None),
        ("is it 4?", True, None),
        ("<think>a</think>4<think>or 5", False, None),
        ("<think>a</think>3<think>b</think>4", False, "4"),
        ("<think>a</think>", False, ""),
        ("", False, ""),
    ],
)
def test_what_is_said_follows_the_last_block_and_an_open_one_says_nothing(text, opened, said):
    assert THINK.said(text, opened) == said


@pytest.mark.parametrize("added", [("<think>", "</think>"), ()], ids=["markers are tokens", "markers are text"])
def test_a_prompt_that_ends_in_thoughts_opens_the_block(added):
    some = tokens(R1, added)
    prompt = some.render(ASK, "plain")
    assert prompt.endswith("<think>\n")
    assert some.said(some.encode(prompt), "2+2 is 5</think>4") == "4"
    assert some.said(some.encode(prompt), "4") is None
    quoted = some.encode(some.render([{"role": "user", "content": "What is <think> for?"}], "plain") + "\n</think>\n")
    assert some.said(quoted, "4") == "4", "only the end of the prompt counts"


def test_markers_that_are_special_tokens_are_not_lost_in_the_text():
    special = tuple(AddedToken(m, special=True) for m in ("[THINK]", "[/THINK]", "<pad>"))
    some = tokens(MISTRAL, special)
    ids = (*some.tokenizer.encode("[THINK]5?[/THINK]4<pad>", add_special_tokens=False), some.eos)
    assert some.decode(ids) == "[THINK]5?[/THINK]4"
    assert some.said((), some.decode(ids)) == "4"


# ---------------------------------------------------------------- which markers


def test_markers_come_from_the_recipe_the_tokenizer_or_the_field_in_this_order():
    made = byte_level(added=("[THINK]", "[/THINK]"), eos_token="</s>")
    assert markers(byte_level(eos_token="</s>")) == ("<think>", "</think>")
    assert markers(made) == ("[THINK]", "[/THINK]")
    block = {"open": "<reason>\n", "close": "</reason>", "content": "text"}
    made.response_template = {"fields": {"content": {"close": "</s>"}, "reasoning_content": block}}
    assert markers(made) == ("<reason>", "</reason>")
    made.response_template = {"fields": {"thinking": {"open_pattern": "<a|b>", "close": "</a>"}}}
    assert markers(made) == ("[THINK]", "[/THINK]"), "a pattern is no marker"
    assert tokens(think=("(", ")")).said((), "(5?)4") == "4"
    assert tokens(think="off").said((), "<think>5?") == "<think>5?"


def test_the_recipe_takes_markers_and_a_switch_and_writes_them_back():
    recipe = small.recipe("prompt.think=[<a>, </a>]", "prompt.thinking=false")
    assert recipe.prompt.think == ("<a>", "</a>") and recipe.prompt.thinking is False
    assert parse_recipe(to_yaml(recipe), "again") == recipe
    assert small.recipe("prompt.think=off").prompt.think == "off"
    for wrong in ("prompt.think=[<a>]", "prompt.think=[<a>, '']", "prompt.think=maybe"):
        with pytest.raises(RecipeError, match=r"prompt\.think"):
            small.recipe(wrong)


# ---------------------------------------------------------------- the switch, and earlier turns


def test_thinking_is_switched_by_the_template_or_refused():
    assert tokens().render(ASK, "plain").endswith("assistant\n")
    off = tokens(thinking=False)
    prompt = off.render(ASK, "plain")
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert off.said(off.encode(prompt), "4") == "4"
    assert tokens(thinking=True).render(ASK, "plain") == tokens().render(ASK, "plain")
    renamed = tokens(
        QWEN3.replace("enable_thinking", "thinking") + "{% generation %}{% endgeneration %}", thinking=False
    )
    assert "<think>" in renamed.render(ASK, "plain")
    with pytest.raises(ModelError, match=r"prompt\.thinking=false: the chat template has no switch"):
        tokens(R1, thinking=False)
    with pytest.raises(ModelError, match="no chat template to tell"):
        tokens(None, thinking=True)


@pytest.mark.parametrize("template", [QWEN3, R1, None])
def test_an_answer_that_is_given_stands_behind_the_thoughts(template):
    some = tokens(template)
    prompt = some.render(ASK, "plain")
    given = some.encode_completion(some.lead(prompt) + "4")
    assert some.said(some.encode(prompt), some.decode(given)).strip() == "4"
    assert some.thought(some.encode(prompt), given) == (2 if template == R1 else 0), "a new line and the marker"


def test_templates_drop_the_thoughts_of_earlier_turns_and_so_do_self_written_examples():
    said = {"role": "assistant", "content": "<think>\n5?\n</think>\n\n2+2=4, so 4"}
    shown = tokens().render([*ASK, said, *ASK], "plain")
    assert "5?" not in shown and "\n2+2=4, so 4<|im_end|>" in shown


# ---------------------------------------------------------------- how much is thought


@pytest.mark.parametrize("added", [("<think>", "</think>"), ()], ids=["markers are tokens", "markers are text"])
@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_tokens_of_thoughts_are_counted_up_to_the_last_closing_marker(make, added):
    made = make(added=added, bos_token="<s>", eos_token="</s>")
    some = TextTokens(made, 256, PromptConfig(), len(made))
    assert some.thought((), some.encode_completion("The answer is 4")) == 0
    for text in ("<think>The name? 😀</think> 4", "<think>a</think>3<think>b</think> The"):
        ids = some.encode_completion(text)
        n = some.thought((), ids)
        closed = [some.decode(ids[:k]).count("</think>") for k in (n - 1, n, len(ids))]
        assert closed[0] < closed[1] == closed[2] == text.count("</think>") and n < len(ids)
    assert some.thought((), unclosed := some.encode_completion("<think>4")) == len(unclosed)


# ---------------------------------------------------------------- samples


class ThinkingBytes(ByteTokens):
    """Bytes with thoughts: every prompt begins them."""

    def lead(self, prompt: str) -> str:
        return "</think> "

    def said(self, prompt_ids: Sequence[int], text: str) -> str | None:
        return THINK.said(text, opened=True)

    def thought(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        return self.decode(completion_ids).rfind("</think>") + len("</think>")


class Thinking(Scripted):
    """A model that thinks a wrong answer and says what it is given to say, by the first number of the question."""

    says = ("wrong 99</think> #### 4", "#### 99", "99</think>cut", "none</think> hm")

    class Options(Scripted.Options):
        pass

    def tokens(self, checkpoint: Checkpoint) -> ThinkingBytes:
        return ThinkingBytes(self.options.context)

    def generate(self, requests: Sequence[Request], **how: Any) -> Iterator[tuple[int, list[Completion]]]:
        for index, request in enumerate(requests):
            kind = int(ThinkingBytes(0).decode(request.prompt_ids).split("Q: ")[-1].split("+")[0]) % len(self.says)
            ids = ThinkingBytes(0).encode_completion(self.says[kind])
            finish = "length" if kind == 2 else "stop"
            yield index, [Completion(ids, (-0.1,) * len(ids), finish) for _ in request.seeds]


def asked(first: int, answer: str = "4") -> Task:
    return Task(({"role": "user", "content": f"{first}+1"},), answer, "number")


def test_the_answer_is_read_from_what_is_said_and_never_from_thoughts():
    engine = Thinking(Thinking.Options())
    parent = engine.open("scripted:0.6")
    tasks = [asked(n) for n in range(4)]
    rows = rollout(engine, parent, engine.tokens(parent), tasks, Sampling(), small.CHECKERS, run_seed=1)
    assert [(r.answer, r.error) for r in rows] == [("4", None), (None, UNFINISHED), (None, TRUNCATED), (None, None)]
    assert rows[0].text == Thinking.says[0], "the record keeps all of it"


def test_held_out_answers_are_graded_without_their_thoughts():
    engine = Thinking(Thinking.Options())
    parent = engine.open("scripted:0.6")
    tasks = [asked(0), asked(4, "99"), asked(1, "99")]  # the second thinks what is right, and says something else
    source, method = small.tasks((), tasks), small.method()
    found = measure(engine, parent, engine.tokens(parent), method, source, "dev", tasks, "accuracy", seed=1)
    assert found.report.scores == (1.0, 0.0, 0.0)
    assert "99</think>" in found.rollouts[1].text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "run") as opened:
        yield opened


def test_whole_paths_are_learned_examples_show_what_was_said_and_given_answers_close_the_block(store: Store):
    with_examples = {"sample_format": "few_shot_cot", "formats": ["few_shot_cot", "answer_only"], "exemplar_count": 1}
    method = small.method(**with_examples)
    bench = small.bench(store, small.tasks([asked(0), asked(4), asked(8)]), Thinking(Thinking.Options()))
    groups = bench.generate(list(method.propose(bench)), method.sampling())
    learned = list(method.harvest(groups, bench))
    whole = [e for e in learned if e.text == Thinking.says[0]]
    given = [e for e in learned if e.text == "</think> The answer is 4."]
    assert len(whole) == len(given) == len(learned) / 2 > 0
    shown = {ThinkingBytes(0).decode(e.prompt_ids) for e in whole}
    assert any("A: #### 4\nQ: " in prompt for prompt in shown) and not any("99" in prompt for prompt in shown)
    thoughts = len("wrong 99</think>")
    assert bench.counts["tokens of thoughts"] == thoughts * sum(len(rollouts) for _, rollouts in groups)


def test_without_thoughts_nothing_is_noted(store: Store):
    method, bench = small.method(), small.bench(store, small.tasks(small.sums(5)))
    list(method.harvest(bench.generate(list(method.propose(bench)), method.sampling()), bench))
    assert bench.counts["samples"] == 40 and "tokens of thoughts" not in bench.counts
