"""Chat templates: rendered as transformers renders them, and hostile ones refused before they do harm."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from text_cases import byte_level_metadata, read

from lepton_ref.text import Tokenizer
from lepton_ref.text.chat import check_messages, render

GOLDEN = read("chat/chats.json")
HI = [{"role": "user", "content": "Hi"}]


def clock() -> datetime:
    return datetime.fromisoformat(GOLDEN["clock"])


def tokenizer_with(template: str | None, **more: str) -> Tokenizer:
    entries = byte_level_metadata()
    if template is not None:
        entries["tokenizer.chat_template"] = template
    return Tokenizer.from_gguf(entries | {f"tokenizer.chat_template.{name}": source for name, source in more.items()})


@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_rendered_text_equals_that_of_transformers(name: str) -> None:
    compared = 0
    for chat, pair in zip(GOLDEN["chats"], GOLDEN["rendered"][name], strict=True):
        for prompt, expected in zip((False, True), pair, strict=True):
            tokenizer = tokenizer_with(GOLDEN["templates"][name])
            variables = GOLDEN["variables"] | chat.get("variables", {})
            options: dict[str, Any] = {"tools": chat.get("tools"), "variables": variables, "clock": clock}
            if expected is None:
                with pytest.raises(ValueError, match="chat template: "):
                    tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=prompt, **options)
                continue
            compared += 1
            got = tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=prompt, **options)
            assert got == expected
    assert compared >= 10


def test_the_golden_tells_a_template_without_trim_blocks_apart() -> None:
    import jinja2

    source, chat = GOLDEN["templates"]["chatml"], GOLDEN["chats"][0]
    wrong = jinja2.Environment().from_string(source).render(messages=chat["messages"], add_generation_prompt=True)
    assert wrong != GOLDEN["rendered"]["chatml"][0][1]


def test_special_tokens_are_named_in_the_template_by_their_role() -> None:
    tokenizer = tokenizer_with("{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}")
    assert tokenizer.apply_chat_template(HI) == "<|im_start|>|<|im_end|>|False"


def test_a_rendered_conversation_is_encoded_with_its_control_tokens() -> None:
    tokenizer = tokenizer_with(GOLDEN["templates"]["smollm2"])
    ids = tokenizer.encode(tokenizer.apply_chat_template(HI), add_special=False)
    start, end = tokenizer.id_of("<|im_start|>"), tokenizer.id_of("<|im_end|>")
    assert (ids.count(start), ids.count(end), ids[0]) == (3, 2, start)  # type: ignore[arg-type]


def test_named_templates_are_chosen_by_name_and_by_tools() -> None:
    tokenizer = tokenizer_with("plain", tool_use="tools", rag="rag")
    assert tokenizer.apply_chat_template(HI) == "plain"
    assert tokenizer.apply_chat_template(HI, tools=[]) == "tools"
    assert tokenizer.apply_chat_template(HI, template="rag") == "rag"
    with pytest.raises(ValueError, match="'other' is not there: use one of default, rag, tool_use"):
        tokenizer.apply_chat_template(HI, template="other")


def test_without_a_template_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="no chat template: write the prompt as text"):
        tokenizer_with(None).apply_chat_template(HI)


HOSTILE = {
    "class of a string": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class through a filter": "{{ messages | attr('__class__') }}{{ (messages | attr('__class__')).__mro__ }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('true') }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__call__.__globals__ }}{{ f._func.__globals__['x'] }}",
    "format to attributes": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "environment": "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "change the messages": "{{ messages.append(1) }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested lists": "{% set l = range(2000) | list %}{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}",
    "text in a loop": "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
    "repeated text": "{{ 'x' * 10**12 }}",
    "repeated list": "{{ [0] * 10**12 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "doubling by plus": "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling by tilde": "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by blocks": "{% set a %}xx{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "doubling by lists": "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "wide filter": "{{ 'x' | center(10**10) }}",
    "wide method": "{{ 'x'.ljust(10**10) }}",
    "wide indent": "{{ 'x\\ny' | indent(10**10) }}",
    "wide percent": "{{ '%9999999999d' % 1 }}",
    "wide percent star": "{{ '%*d' % (10**10, 1) }}",
    "wide format filter": "{{ '%9999999999d' | format(1) }}",
    "wide str.format": "{{ '{:>9999999999}'.format('x') }}",
    "nested width": "{{ '{:{}}'.format('x', 10**10) }}",
    "replace": "{{ ('x' * 4000000) | replace('x', 'y' * 4000000) }}",
    "replace method": "{{ ('x' * 4000000).replace('x', 'y' * 4000000) }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "join method": "{{ ('x' * 99999).join(['y'] * 99999) }}",
    "endless macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "endless map": "{{ range(99999) | map('center', 4000000) | list }}",
    "filters without a loop": "{{ range(99999) | map('string') | map('center', 99999) | join | length }}",
    "random words": "{{ lipsum(n=10**9) }}",
    "deep nesting": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "date": "{{ strftime_now('%9999999999d') }}",
    "no end": "{% for message in messages %}",
    "unknown tag": "{% frobnicate %}",
    "unknown filter": "{{ 1 | frobnicate }}",
    "of an undefined": "{{ nothing.at.all }}",
    "division": "{{ 1 / 0 }}",
    "refusal": "{{ raise_exception('no') }}",
    "unserialisable": "{{ namespace() | tojson }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_one_line_and_soon(name: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"\Achat template: .+\Z") as caught:
        tokenizer_with(HOSTILE[name]).apply_chat_template(HI)
    assert len(str(caught.value)) < 500
    assert time.process_time() - start < 20


def test_modest_uses_of_the_same_features_are_rendered() -> None:
    for template, text in (
        ("{% for i in range(1000) %}x{% endfor %}", "x" * 1000),
        ("{{ 'x' * 5 ~ (1 + 2 ** 3) }}", "xxxxx9"),
        ("{% set n = namespace(s='x') %}{% for i in 'aaa' %}{% set n.s = n.s * 2 %}{% endfor %}{{ n.s }}", "x" * 8),
        ("{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "321"),
        ("{{ '%5d' % 7 }}{{ '{:>3}'.format(1) }}{{ 'a,b'.split(',') | join('-') }}", "    7  1a-b"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}", "a1True"),
        ("{% for x in 'abc' %}{{ loop.length }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}", "33"),
        ("{% for x in [1, 2, 3] if x != 2 %}{{ x }}{{ loop.last }}{% else %}none{% endfor %}", "1False3True"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2026-03-04"),
    ):  # fmt: skip
        assert render(template, {}, clock=clock) == text


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ("hi", "messages: str: give a list"),
        ({"role": "user", "content": "x"}, "messages: dict: give a list"),
        ([], "messages: 0 entries"),
        (["hi"], r"messages\[0\]: str: must be a mapping"),
        ([{"content": "x"}], r"messages\[0\]\[\"role\"\]: None: must be a string"),
        ([{"role": 1, "content": "x"}], r"messages\[0\]\[\"role\"\]: 1: must be a string"),
        ([{"role": "user"}], r"messages\[0\]\[\"content\"\]: None: must be a string or a list"),
        ([HI[0], {"role": "user", "content": 5}], r"messages\[1\]\[\"content\"\]: 5"),
        ([{"role": "user", "content": [open]}], "builtin_function_or_method: use text"),
        ([{"role": "user", "content": "x", 5: 6}], "the key 5: must be a string"),
    ],
)
def test_malformed_messages_are_refused_by_place_and_value(messages: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_messages(messages)


def test_messages_nested_without_end_are_refused() -> None:
    part: dict[str, Any] = {"type": "text"}
    part["self"] = part
    with pytest.raises(ValueError, match="nested deeper than 32"):
        check_messages([{"role": "user", "content": [part]}])


def test_a_template_sees_plain_values_alone_and_changes_none() -> None:
    class Loud(str):
        def shout(self) -> str:
            return "shouted"

    with pytest.raises(ValueError, match="chat template: "):
        render(
            "{{ messages[0].content.shout() }}", {"messages": check_messages([{"role": "user", "content": Loud("x")}])}
        )
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    tokenizer_with("{% set messages = messages + [1] %}{{ messages | length }}").apply_chat_template(messages)
    assert messages == [{"role": "user", "content": "x"}]
