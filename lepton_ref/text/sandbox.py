"""A Jinja2 environment for templates that come with a file, hence from strangers.

Jinja2's immutable sandbox keeps a template from Python's internals and from changing what it is given. It does not keep
it from running for ever or from filling the memory, so here every loop step, call and operator is counted and the
length of every string or list that they make is bounded.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from lepton_ref.text.parts import library

MAX_STEPS = 200_000
"""Loop steps, calls and operators that one rendering may take."""
MAX_LENGTH = 1 << 22
"""Characters of any one string, or entries of any one list, that a rendering may make; also the largest number that a
template may pass to a function, since that may be a width or a count."""
MAX_WORK = 1 << 26
"""Characters and entries made in one rendering, all together."""

_LONG_WIDTH = re.compile(r"\d{7,}")


class Budget:
    """What is left to one rendering."""

    def __init__(self) -> None:
        self.steps, self.work = MAX_STEPS, MAX_WORK

    def step(self) -> None:
        """Count one step."""
        self.steps -= 1
        if self.steps < 0:
            raise ValueError(f"chat template: more than {MAX_STEPS} steps: refused; give a template that ends sooner")

    def size(self, length: int) -> None:
        """Count a string or list of this length, before or after it is made."""
        self.work -= length
        if length > MAX_LENGTH or self.work < 0:
            raise ValueError(f"chat template: a text or list of {length}: refused; the limit is {MAX_LENGTH}")

    def made(self, value: Any) -> Any:
        """Count a value that an operation gave, and give it back."""
        if isinstance(value, str | list | tuple | dict):
            self.size(len(value))
        elif isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("chat template: a number beyond 64 bits: refused; templates need none")
        return value

    def arguments(self, values: Iterable[Any]) -> None:
        """Refuse numbers that would make a function allocate without bound, and format strings with such widths."""
        for value in values:
            if isinstance(value, int | float) and abs(value) > MAX_LENGTH:
                raise ValueError(f"chat template: the argument {value}: refused; the limit is {MAX_LENGTH}")

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """The same entries, one step each."""
        for value in values:
            self.step()
            yield value


def _check_width(value: Any) -> None:
    if isinstance(value, str) and _LONG_WIDTH.search(value) is not None and ("%" in value or "{" in value):
        raise ValueError("chat template: a format with a width of seven digits or more: refused; use a smaller width")


def _check_replace(budget: Budget, text: Any, arguments: tuple[Any, ...]) -> None:
    if isinstance(text, str) and len(arguments) >= 2 and all(isinstance(a, str) for a in arguments[:2]):
        budget.size(len(text) + text.count(arguments[0]) * len(arguments[1]))


def _check_join(budget: Budget, separator: Any, entries: Any) -> None:
    if isinstance(separator, str) and hasattr(entries, "__len__"):
        budget.size(len(separator) * len(entries) + sum(len(e) for e in entries if isinstance(e, str)))


def _check_call(budget: Budget, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Bound what a call may make before it makes it."""
    budget.step()
    budget.arguments([*arguments, *named.values()])
    inner = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
    owner, name = getattr(inner, "__self__", None), getattr(inner, "__name__", "")
    if name in ("format", "format_map", "strftime_now"):
        _check_width(owner)
        for argument in arguments:
            _check_width(argument)
    if name == "replace":
        _check_replace(budget, owner, arguments)
    if name == "join" and len(arguments) == 1:
        _check_join(budget, owner, arguments[0])


def _check_filter(budget: Budget, name: str, value: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Bound what a filter may make before it makes it."""
    budget.step()
    budget.arguments([*arguments, *named.values()])
    if name == "format":
        _check_width(value)
    if name == "replace":
        _check_replace(budget, value, tuple(arguments) + tuple(named.values()))
    if name == "join":
        _check_join(budget, next(iter([*arguments, *named.values()]), ""), value)


def _guard_filter(budget: Budget, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with its input and output bounded; `functools.wraps` keeps Jinja2's marks on it."""
    passes = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def guarded(*arguments: Any, **named: Any) -> Any:
        value, rest = (arguments[passes], arguments[passes + 1 :]) if len(arguments) > passes else ("", ())
        _check_filter(budget, name, value, rest, named)
        return budget.made(function(*arguments, **named))

    return guarded


def _check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Bound what an operator may make before it makes it."""
    budget.step()
    if operator == "*":
        for text, count in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(count, int):
                budget.size(len(text) * max(count, 0))
    if operator == "**" and (not isinstance(right, int) or abs(right) > 64 or not isinstance(left, int | float)):
        raise ValueError(f"chat template: a power {right!r}: refused; the largest exponent is 64")
    if operator == "%" and isinstance(left, str):
        _check_width(left)
        budget.arguments(right if isinstance(right, tuple) else (right,))


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise ValueError(f"chat template: {message}")


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as templates expect it: not escaped for HTML, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(budget: Budget, clock: Callable[[], datetime]) -> tuple[Any, Any]:
    """The environment for one rendering, and the visitor that must rewrite the parsed template before it is run."""
    jinja2, nodes = library("jinja2"), library("jinja2.nodes")
    sandboxed: Any = library("jinja2.sandbox").ImmutableSandboxedEnvironment
    extension: Any = library("jinja2.ext").Extension
    visitor: Any = library("jinja2.visitor").NodeTransformer

    class Generation(extension):  # type: ignore[misc] # the base is known at run time only
        """`{% generation %}` … `{% endgeneration %}` marks what an assistant said; here it is only its content."""

        tags: frozenset[str] = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Counted(sandboxed):  # type: ignore[misc] # as above
        intercepted_binops = frozenset(("*", "**", "+", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operator(budget, operator, left, right)
            return budget.made(super().call_binop(context, operator, left, right))

        def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
            _check_call(budget, function, arguments, named)
            return budget.made(super().call(context, function, *arguments, **named))

        def concat(self, pieces: Iterable[str]) -> str:
            """Join what a macro, a block or the template wrote, its length counted before it is joined."""
            kept = []
            for piece in pieces:
                budget.size(len(piece))
                kept.append(piece)
            budget.size(sum(map(len, kept)))
            return "".join(kept)

    class Count(visitor):  # type: ignore[misc] # as above
        """Send every loop's values and every `~` through the counters."""

        def visit_For(self, node: Any) -> Any:  # noqa: N802 - the name is Jinja2's
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
            return node

        def visit_Concat(self, node: Any) -> Any:  # noqa: N802 - the name is Jinja2's
            self.generic_visit(node)
            pieces = nodes.List(node.nodes, lineno=node.lineno)
            return nodes.Filter(pieces, "_joined", [], [], None, None, lineno=node.lineno)

    env = Counted(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    _furnish(env, budget, clock, jinja2.Undefined)
    return env, Count()


def _furnish(env: Any, budget: Budget, clock: Callable[[], datetime], undefined: type) -> None:
    """Add the functions that chat templates use and guard the filters."""
    env.filters["tojson"] = tojson
    env.filters = {name: _guard_filter(budget, name, function) for name, function in env.filters.items()}

    def counted(values: Any) -> Any:
        # A loop asks the length of what has one (loop.last, loop.length), so a list stays a list.
        if isinstance(values, undefined):
            return values
        if not hasattr(values, "__len__"):
            return budget.counted(values)
        budget.steps -= len(values)
        budget.step()
        return values

    env.filters["_counted"] = counted
    env.filters["_joined"] = lambda pieces: env.concat(list(map(str, pieces)))
    env.globals.pop("lipsum")
    env.globals["raise_exception"] = raise_exception

    def strftime_now(form: str) -> str:
        return clock().strftime(form)

    env.globals["strftime_now"] = strftime_now
