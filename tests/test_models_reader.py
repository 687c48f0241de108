"""Numbers out of a config: what each method takes, and that whatever else is there is named with a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ref.models.reader import ACTIVATIONS, ConfigError, Reader, read_label_count
from lepton_ref.ops.activation import ACTIVATIONS as FORMS


def reader(value: Any = None, **fields: Any) -> Reader:
    return Reader({"x": value, **fields}, where="config.json")


# --- what each method takes ------------------------------------------------------------------------------------------

GOOD: tuple[tuple[Callable[[Reader], Any], Any, Any], ...] = (
    (lambda r: r.integer("x"), 3, 3),
    (lambda r: r.integer("x"), np.uint32(3), 3),
    (lambda r: r.integer("x", minimum=0), 0, 0),
    (lambda r: r.integer("x"), (1 << 63) - 1, (1 << 63) - 1),
    (lambda r: r.integer("x", 7), None, 7),
    (lambda r: r.integer("x", None), None, None),
    (lambda r: r.number("x"), 3, 3.0),
    (lambda r: r.number("x"), 0.5, 0.5),
    (lambda r: r.number("x"), np.float32(0.5), 0.5),
    (lambda r: r.number("x"), 1e-300, 1e-300),
    (lambda r: r.number("x"), 0, 0.0),
    (lambda r: r.number("x", positive=False), -2, -2.0),
    (lambda r: r.number("x", 0.1), None, 0.1),
    (lambda r: r.numbers("x"), [1, 2.5], (1.0, 2.5)),
    (lambda r: r.numbers("x"), None, ()),
    (lambda r: r.flag("x", False), True, True),
    (lambda r: r.flag("x", True), np.False_, False),
    (lambda r: r.flag("x", True), None, True),
    (lambda r: r.text("x"), "gelu", "gelu"),
    (lambda r: r.text("x", None), None, None),
    (lambda r: r.activation("x", "relu"), "swish", "silu"),
    (lambda r: r.activation("x", "gelu_new"), None, "gelu_tanh"),
    (lambda r: r.only("x", False, False), False, None),
    (lambda r: r.only("x", False, False), None, None),
    (lambda r: r.only("x", {}, {}), {}, None),
    (lambda r: r.section("x").fields, {"y": 1}, {"y": 1}),
    (lambda r: r.section("x").fields, None, {}),
    (lambda r: r.has("x"), 0, True),
    (lambda r: r.has("x"), None, False),
    (lambda r: r.is_null("x"), None, True),
    (lambda r: r.is_null("y"), None, False),
    (lambda r: r.is_null("x"), 0, False),
)


@pytest.mark.parametrize(("take", "value", "want"), GOOD)
def test_what_is_taken(take: Callable[[Reader], Any], value: Any, want: Any) -> None:
    got = take(reader(value))
    assert got == want
    assert type(got) is type(want)


BAD: tuple[tuple[Callable[[Reader], Any], Any, str], ...] = (
    (lambda r: r.integer("x"), 0, "x is 0, but must be an integer not below 1"),
    (lambda r: r.integer("x", minimum=0), -1, "x is -1, but must be an integer not below 0"),
    (lambda r: r.integer("x", 7), 2.0, "x is 2.0, but must be an integer"),
    (lambda r: r.integer("x"), True, "x is True, but must be an integer"),
    (lambda r: r.integer("x"), "3", "x is '3', but must be an integer"),
    (lambda r: r.integer("x"), [3], "x is [3], but must be an integer"),
    (lambda r: r.integer("x"), np.array([3, 4]), "x is array([3, 4]), but must be an integer"),
    (lambda r: r.integer("x"), math.nan, "x is nan, but must be an integer"),
    (lambda r: r.integer("x"), 1 << 63, "x is 9223372036854775808, but must be at most"),
    (lambda r: r.integer("x"), 10**400, "..., but must be at most"),
    (lambda r: r.number("x"), "1e-5", "x is '1e-5', but must be a number"),
    (lambda r: r.number("x"), True, "x is True, but must be a number"),
    (lambda r: r.number("x"), math.nan, "x is nan, but must be a finite number"),
    (lambda r: r.number("x"), math.inf, "x is inf, but must be a finite number"),
    (lambda r: r.number("x"), -1e-9, "x is -1e-09, but must be a finite number that is not negative"),
    (lambda r: r.number("x", positive=False), -math.inf, "x is -inf, but must be a finite number"),
    (lambda r: r.number("x"), 10**400, "..., but must be a finite number"),
    (lambda r: r.number("x"), {"a": 1}, "x is {'a': 1}, but must be a number"),
    (lambda r: r.numbers("x"), 3, "x is 3, but must be a list of numbers"),
    (lambda r: r.numbers("x"), [1, "a"], "x: 1 is 'a', but must be a number"),
    (lambda r: r.numbers("x"), [-1], "x: 0 is -1, but must be a finite number that is not negative"),
    (lambda r: r.numbers("x"), [1, None], "x: 1 is missing"),
    (lambda r: r.flag("x", True), 1, "x is 1, but must be true or false"),
    (lambda r: r.flag("x", True), "false", "x is 'false', but must be true or false"),
    (lambda r: r.text("x"), 3, "x is 3, but must be a string"),
    (lambda r: r.text("x", None), ["a"], "x is ['a'], but must be a string"),
    (lambda r: r.activation("x", "relu"), "mish", "x is 'mish', but must be one of relu, relu2, silu"),
    (lambda r: r.activation("x", "relu"), {"a": 1}, "x is {'a': 1}, but must be a string"),
    (lambda r: r.activation("x", "relu"), "GELU", "x is 'GELU', but must be one of"),
    (lambda r: r.only("x", False, False), True, "x is True, but must be False, the only setting supported"),
    (lambda r: r.only("x", "absolute", "absolute"), "relative_key", "x is 'relative_key', but must be 'absolute'"),
    (lambda r: r.only("x", {}, {}), {"0": [1]}, "x is {'0': [1]}, but must be {}"),
    (lambda r: r.only("x", False, False), np.array([0, 0]), "x is array([0, 0]), but must be False"),
    (lambda r: r.section("x"), [1], "x is [1], but must be an object"),
    (lambda r: r.section("x"), "a", "x is 'a', but must be an object"),
)


@pytest.mark.parametrize(("take", "value", "message"), BAD)
def test_what_is_refused(take: Callable[[Reader], Any], value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        take(reader(value))
    assert message in str(caught.value)
    assert str(caught.value).startswith("config.json")


def refused(take: Callable[[Reader], Any], value: Any) -> bool:
    try:
        take(reader(value))
    except ConfigError:
        return True
    except (AttributeError, TypeError):
        return False  # not named
    return False


@pytest.mark.parametrize("method", ["integer", "number", "numbers", "flag", "text", "activation", "only", "section"])
def test_a_method_that_checks_nothing_would_be_seen(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(refused(take, value) for take, value, _ in BAD)
    monkeypatch.setattr(Reader, method, lambda self, name, *_, **__: self.raw(name, None))
    assert not all(refused(take, value) for take, value, _ in BAD)


MISSING: tuple[Callable[[Reader], Any], ...] = (
    lambda r: r.raw("y"), lambda r: r.integer("y"), lambda r: r.number("y"), lambda r: r.text("y"),
)  # fmt: skip


@pytest.mark.parametrize("take", MISSING)
@pytest.mark.parametrize("fields", [{}, {"y": None}])
def test_what_is_missing_is_named(take: Callable[[Reader], Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json: y is missing"):
        take(Reader(fields, where="config.json"))


def test_the_prefix_is_part_of_the_name() -> None:
    read = Reader({"llama.block_count": 3, "block_count": 4, "llama.eps": "a"}, where="m.gguf", prefix="llama.")
    assert read.integer("block_count") == 3
    assert read.has("block_count")
    assert not read.has("llama.block_count")
    with pytest.raises(ConfigError, match=r"^m\.gguf: llama\.eps is 'a', but must be a number$"):
        read.number("eps")
    with pytest.raises(ConfigError, match=r"^m\.gguf: llama\.rope is missing"):
        read.raw("rope")


def test_a_section_is_named_in_its_errors() -> None:
    inner = reader({"factor": "two"}).section("x")
    with pytest.raises(ConfigError, match=r"^config\.json: x: factor is 'two', but must be a number$"):
        inner.number("factor")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)
METHODS: Mapping[str, Callable[[Reader], Any]] = {
    "integer": lambda r: r.integer("x", 1),
    "number": lambda r: r.number("x", 1.0),
    "numbers": lambda r: r.numbers("x"),
    "flag": lambda r: r.flag("x", True),
    "text": lambda r: r.text("x", ""),
    "activation": lambda r: r.activation("x", "relu"),
    "only": lambda r: r.only("x", False, False),
    "section": lambda r: r.section("x"),
    "labels": lambda r: read_label_count(Reader({"id2label": r.raw("x", None)}, where=r.where)),
}
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "integer": int, "number": float, "numbers": tuple, "flag": bool, "text": str, "activation": str,
    "only": type(None), "section": Reader, "labels": int,
}  # fmt: skip


@given(st.sampled_from(sorted(METHODS)), JSON)
def test_whatever_is_there_is_taken_or_named_on_one_short_line(method: str, value: Any) -> None:
    try:
        got = METHODS[method](reader(value))
    except ConfigError as error:
        message = str(error)
        assert message.startswith("config.json: ")
        assert "but must be" in message or "is missing" in message
        assert "\n" not in message
        assert len(message) < 400
    else:
        assert isinstance(got, KINDS[method])
        assert not isinstance(got, float) or (math.isfinite(got) and got >= 0)


def test_every_activation_has_its_form() -> None:
    assert set(ACTIVATIONS.values()) <= set(FORMS)
    assert {name for name in ACTIVATIONS if ACTIVATIONS[name] == "gelu_tanh"} == {
        "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 2),
        ({"num_labels": 5}, 5),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ({"id2label": {"0": "a"}, "num_labels": 1}, 1),
        ({"id2label": None, "num_labels": 4}, 4),
    ],
)
def test_labels(fields: dict[str, Any], count: int) -> None:
    assert read_label_count(Reader(fields, where="config.json")) == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"id2label": {"0": "a"}, "num_labels": 2},
            "num_labels is 2, but must be 1, the number of entries in id2label",
        ),
        ({"id2label": ["a"]}, "id2label is ['a'], but must be an object"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_labels_that_contradict_each_other(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_label_count(Reader(fields, where="config.json"))
    assert message in str(caught.value)
