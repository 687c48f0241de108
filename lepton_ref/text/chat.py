"""Chat templates: conversations checked, then rendered by the template that came with the model, in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lepton_ref.text.parts import library
from lepton_ref.text.sandbox import MAX_LENGTH, Budget, environment

MAX_DEPTH = 32
"""How deep messages and tools may nest."""


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of None, bool, int, float, str, list and dict alone, so that a template meets no other object.

    Raises:
        ValueError: another type, a key that is not a string, or deeper than 32.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}: nested deeper than {MAX_DEPTH}: give flatter messages")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where}: the key {key!r}: must be a string")
        return {str.__str__(key): plain(entry, f"{where}[{key!r}]", depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{index}]", depth + 1) for index, entry in enumerate(value)]
    raise ValueError(f"{where}: {type(value).__name__}: use text, numbers, lists and dictionaries")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A plain copy of a conversation: a list of {"role": …, "content": …}.

    Content is a string, a list of parts ({"type": "text", "text": …}), or None in a message that has tool calls.

    Raises:
        ValueError: the first message that is not of that form.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f'messages: {type(messages).__name__}: give a list of {{"role": …, "content": …}}')
    if len(messages) == 0:
        raise ValueError("messages: 0 entries: give at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"messages[{index}]: {type(message).__name__}: must be a mapping with role and content")
        if not isinstance(message.get("role"), str):
            raise ValueError(f'messages[{index}]["role"]: {message.get("role")!r}: must be a string such as "user"')
        content, calls = message.get("content"), message.get("tool_calls")
        if not isinstance(content, str | list | tuple) and not (content is None and calls is not None):
            raise ValueError(f'messages[{index}]["content"]: {content!r}: must be a string or a list of parts')
    copied = plain(list(messages), "messages")
    assert isinstance(copied, list)
    return copied


def choose(templates: Mapping[str, str], name: str | None, *, tools: bool) -> str:
    """The template of this name; without a name "tool_use" where tools are given and it exists, else "default".

    Raises:
        ValueError: there is none of that name.
    """
    if name is None:
        name = "tool_use" if tools and "tool_use" in templates else "default"
    if len(templates) == 0:
        raise ValueError("this tokenizer has no chat template: write the prompt as text, or give template=…")
    if name not in templates:
        raise ValueError(f"chat template: {name!r} is not there: use one of {', '.join(sorted(templates))}")
    return templates[name]


def render(source: str, variables: Mapping[str, Any], *, clock: Callable[[], datetime] = datetime.now) -> str:
    """The text that a template gives for these variables.

    Raises:
        ValueError: the template is wrong, refuses the conversation, asks for what the sandbox forbids, or exceeds the
            limits on steps and length; the message says which.
    """
    if len(source) > MAX_LENGTH:
        raise ValueError(f"chat template: {len(source)} characters: the limit is {MAX_LENGTH}")
    jinja2 = library("jinja2")
    budget = Budget()
    env, counter = environment(budget, clock)
    try:
        tree = counter.visit(env.parse(source))
        return str(env.from_string(tree).render(**variables))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template: line {error.lineno}: {error.message}: correct the template") from error
    except jinja2.sandbox.SecurityError as error:
        raise ValueError(f"chat template: refused: {error}") from error
    except jinja2.TemplateError as error:
        raise ValueError(f"chat template: {error}") from error
    except (OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"chat template: refused: {error or type(error).__name__}") from error
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"chat template: {type(error).__name__}: {error}") from error
