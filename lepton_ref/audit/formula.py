"""A storage format's formula, such as "d·sc·q − dmin·m", with the numbers of one element in it, in real numbers.

    sum      term { (+ | −) term }
    term     power { (· | /) power }           a factor that follows a number directly multiplies it: 2s + 1
    power    factor [ ^ factor ]
    factor   number | name | name[name] | (sum) | − factor

A name is a part of the element. K[q] is the level that code q stands for, which the part "q" has for its value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[^\W\d]\w*\[[^\W\d]\w*\]|[^\W\d]\w*|[-+−·*/^()½∞])")


class FormulaError(ValueError):
    """A formula that is none, or that names a part which is not there."""


def evaluate(formula: str, values: Mapping[str, float], /) -> Fraction | None:
    """The real value of a formula; None where it, or a part that it names, is no finite number.

    Raises:
        FormulaError: a formula that cannot be read, or without one of its parts.
    """
    tokens = _tokens(formula)
    for token in tokens:
        if token in ("∞", "NaN") or (_is_name(token) and not math.isfinite(_value(token, values, formula))):
            return None
    reader = _Reader(formula, tokens, values)
    value = reader.sum()
    if reader.at != len(tokens):
        raise FormulaError(f"the formula {formula!r} cannot be read at {tokens[reader.at]!r}")
    return value


def substitute(formula: str, values: Mapping[str, float], /) -> str:
    """The formula with numbers in the place of names."""
    shown = []
    before = ""
    for token in _tokens(formula):
        if _is_name(token):
            number = written(_value(token, values, formula))
            token = f"({number})" if number.startswith("−") else number  # noqa: PLW2901 (one token, rewritten)
            token = f"·{token}" if before[:1].isdigit() else token  # noqa: PLW2901 (2s is a product)
        signs = token in "+−-" and before not in ("", "(")
        shown.append(f" {token} " if signs else token)
        before = token
    return "".join(shown)


def written(value: float) -> str:
    """A number in full: an integer as one, else the shortest decimal that is this float64."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
    text = str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
    return text.replace("-", "−")


def _is_name(token: str) -> bool:
    return token != "NaN" and (token[0].isalpha() or token[0] == "_")


def _value(token: str, values: Mapping[str, float], formula: str) -> float:
    name = token.partition("[")[2].rstrip("]") or token
    if name not in values:
        raise FormulaError(f"the formula {formula!r} names {name!r}; the element has {', '.join(values)}")
    return values[name]


def _tokens(formula: str) -> list[str]:
    found, at = [], 0
    while formula[at:].strip():
        match = _TOKEN.match(formula, at)
        if match is None:
            raise FormulaError(f"the formula {formula!r} cannot be read at {formula[at:]!r}")
        found.append(match[1])
        at = match.end()
    return found


class _Reader:
    def __init__(self, formula: str, tokens: list[str], values: Mapping[str, float]) -> None:
        self.formula = formula
        self.tokens = tokens
        self.values = values
        self.at = 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self) -> Fraction:
        value = self.term()
        while self.next() in ("+", "−", "-"):
            value = value + self.term() if self.take() == "+" else value - self.term()
        return value

    def term(self) -> Fraction:
        value = self.power()
        while self.next() not in ("", "+", "−", "-", ")"):
            if self.next() == "/":
                self.take()
                value /= self.power()
                continue
            if self.next() in ("·", "*"):
                self.take()
            value *= self.power()
        return value

    def power(self) -> Fraction:
        value = self.factor()
        if self.next() == "^":
            self.take()
            exponent = self.factor()
            if exponent.denominator != 1:
                raise FormulaError(f"the formula {self.formula!r} takes a power of {exponent}")
            value = value ** int(exponent)
        return value

    def factor(self) -> Fraction:
        token = self.take() if self.next() else ""
        if token == "(":
            value = self.sum()
            if self.next() != ")":
                raise FormulaError(f"the formula {self.formula!r} has a bracket that does not close")
            self.take()
            return value
        if token in ("−", "-"):
            return -self.power()
        if token == "½":
            return Fraction(1, 2)
        if token and _is_name(token):
            return Fraction(_value(token, self.values, self.formula))
        if token[:1].isdigit():
            return Fraction(token)
        raise FormulaError(f"the formula {self.formula!r} ends too early or has {token!r} where a number must be")
