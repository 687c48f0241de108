"""Which format each tensor gets: the mixtures as llama.cpp chooses, patterns before them, fallbacks, refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import real_models
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.compress import mixtures, recipe
from lepton_ref.compress.mixtures import MIXTURES, Place, more_bits
from lepton_ref.compress.recipe import Choice, Recipe, choose, fits, nearest, read_patterns
from lepton_ref.compress.source import open_source
from lepton_ref.storage import DENSE_FORMATS, FORMATS

EVERY = MappingProxyType(dict.fromkeys(FORMATS))


@pytest.fixture(autouse=True)
def every_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing does not encode; what has an encoder by now is not the question here."""
    monkeypatch.setattr(recipe, "ENCODERS", EVERY)


def llama(layers: int, *, tied: bool = False, width: int = 512) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (64, width)}
    for layer in range(layers):
        names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        found |= {f"blk.{layer}.{name}.weight": (width, width) for name in names}
        found |= {f"blk.{layer}.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
    found["output_norm.weight"] = (width,)
    return found if tied else found | {"output.weight": (64, width)}


def chosen(shapes: dict[str, tuple[int, ...]], what: Recipe, **how: Any) -> dict[str, str]:
    kept = dict.fromkeys(shapes, "F32")
    return {name: choice.format for name, choice in choose(shapes, what, kept=kept, **how).items()}


def layers_with(formats: dict[str, str], kind: str, format_: str) -> list[int]:
    return [
        int(name.split(".")[1])
        for name, given in formats.items()
        if name.startswith("blk.") and f".{kind}." in name and given == format_
    ]


# --- mixtures, against what llama.cpp's rules give when they are worked out by hand ----------------------------------

MORE_OF_30 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
MORE_OF_16 = [0, 1, 4, 7, 10, 13, 14, 15]
MORE_OF_20 = [0, 1, 4, 7, 10, 13, 16, 17, 18, 19]


@pytest.mark.parametrize(("layers", "more"), [(30, MORE_OF_30), (16, MORE_OF_16), (20, MORE_OF_20)])
def test_q4_k_m(layers: int, more: list[int]) -> None:
    found = chosen(llama(layers), Recipe(mixture="Q4_K_M"))
    for kind in ("attn_v", "ffn_down"):
        assert layers_with(found, kind, "Q6_K") == more
        assert layers_with(found, kind, "Q4_K") == [n for n in range(layers) if n not in more]
    for kind in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
        assert layers_with(found, kind, "Q4_K") == list(range(layers))
    assert layers_with(found, "attn_norm", "F32") == list(range(layers))
    assert (found["output.weight"], found["token_embd.weight"], found["output_norm.weight"]) == ("Q6_K", "Q4_K", "F32")


EXPECTED: list[tuple[str, str, str, dict[str, list[int]]]] = [
    ("Q4_K_S", "Q4_K", "attn_v", {"Q5_K": [0, 1, 2, 3]}),
    ("Q4_K_S", "Q4_K", "ffn_down", {"Q5_K": [0, 1]}),
    ("Q5_K_M", "Q5_K", "attn_v", {"Q6_K": MORE_OF_16}),
    ("Q5_K_M", "Q5_K", "ffn_down", {"Q6_K": MORE_OF_16}),
    ("Q5_K_S", "Q5_K", "ffn_down", {}),
    ("Q3_K_M", "Q4_K", "attn_v", {"Q5_K": [0, 1]}),
    ("Q3_K_M", "Q4_K", "ffn_down", {"Q5_K": [0]}),
    ("Q3_K_M", "Q4_K", "attn_output", {}),
    ("Q3_K_M", "Q3_K", "ffn_up", {}),
    ("Q3_K_L", "Q5_K", "ffn_down", {}),
    ("Q3_K_L", "Q5_K", "attn_output", {}),
    ("Q3_K_S", "Q3_K", "attn_v", {}),
    ("Q2_K", "Q3_K", "attn_v", {}),
    ("Q2_K", "Q3_K", "attn_output", {}),
    ("Q2_K", "Q2_K", "attn_k", {}),
    ("Q6_K", "Q6_K", "ffn_down", {}),
    ("Q4_0", "Q4_0", "ffn_down", {}),
    ("Q8_0", "Q8_0", "attn_v", {}),
]


@pytest.mark.parametrize(("mixture", "most", "kind", "others"), EXPECTED)
def test_the_other_mixtures_on_16_layers(mixture: str, most: str, kind: str, others: dict[str, list[int]]) -> None:
    found = chosen(llama(16), Recipe(mixture=mixture))
    special = [layer for layers in others.values() for layer in layers]
    assert layers_with(found, kind, most) == [n for n in range(16) if n not in special]
    for format_, layers in others.items():
        assert layers_with(found, kind, format_) == layers


def test_heads_that_share_keys_and_importance_change_some() -> None:
    assert layers_with(chosen(llama(4), Recipe(mixture="Q2_K"), sharing=4), "attn_v", "Q4_K") == [0, 1, 2, 3]
    assert layers_with(chosen(llama(4), Recipe(mixture="Q2_K"), sharing=3), "attn_v", "Q3_K") == [0, 1, 2, 3]
    assert layers_with(chosen(llama(16), Recipe(mixture="Q4_0"), importance=True), "ffn_down", "Q4_1") == [0, 1]
    assert layers_with(chosen(llama(80), Recipe(mixture="Q4_K_S"), sharing=8), "attn_v", "Q5_K") == list(range(80))
    assert layers_with(chosen(llama(80), Recipe(mixture="Q4_K_S"), sharing=1), "attn_v", "Q5_K") == [0, 1, 2, 3]


def test_the_output_head() -> None:
    for mixture, head in (("Q4_0", "Q6_K"), ("Q8_0", "Q8_0"), ("Q3_K_S", "Q6_K"), ("Q5_1", "Q6_K")):
        assert chosen(llama(2), Recipe(mixture=mixture))["output.weight"] == head
        tied = chosen(llama(2, tied=True), Recipe(mixture=mixture))
        assert tied["token_embd.weight"] == head
    assert chosen(llama(2), Recipe(mixture="Q4_0"))["token_embd.weight"] == "Q4_0"


def test_a_fused_qkv_counts_among_the_attn_v() -> None:
    shapes = {f"blk.{layer}.attn_qkv.weight": (512, 512) for layer in range(16)}
    assert layers_with(chosen(shapes, Recipe(mixture="Q4_K_M")), "attn_qkv", "Q6_K") == MORE_OF_16


@pytest.mark.parametrize(
    ("format_", "width", "other"),
    [
        ("Q4_K", 576, "Q5_0"), ("Q5_K", 576, "Q5_1"), ("Q6_K", 576, "Q8_0"), ("Q2_K", 576, "Q4_0"),
        ("Q3_K", 576, "Q4_0"), ("Q4_K", 512, "Q4_K"), ("Q4_0", 576, "Q4_0"), ("Q4_0", 24, "F16"), ("Q4_K", 24, "F16"),
    ],
)  # fmt: skip
def test_rows_that_are_no_whole_blocks(format_: str, width: int, other: str) -> None:
    found = choose(llama(1, width=width), Recipe(format=format_), kept=dict.fromkeys(llama(1), "F32"))
    assert found["blk.0.attn_q.weight"].format == other
    chosen_ = found["blk.0.attn_q.weight"]
    assert chosen_.fallback == ("no whole blocks" in chosen_.why) == (other != format_)


def test_what_is_kept_and_what_falls_back_is_no_matter_of_words() -> None:
    shapes = {"kept.weight": (8, 512), "no whole blocks.weight": (8, 512), "blk.0.attn_norm.weight": (512,)}
    patterns = (("kept", "Q4_K"), ("no whole blocks", "Q8_0"))
    found = choose(shapes, Recipe(format="Q6_K", patterns=patterns), kept=dict.fromkeys(shapes, "F32"))
    assert [(one.format, one.kept, one.fallback) for one in found.values()] == [
        ("Q4_K", False, False), ("Q8_0", False, False), ("F32", True, False),
    ]  # fmt: skip
    matrix = choose({"position_embd.weight": (8, 512)}, Recipe(format="Q6_K"), kept={"position_embd.weight": "F16"})
    assert matrix["position_embd.weight"] == Choice("F16", "kept: never quantised", kept=True)
    head = choose({"output.weight": (8, 576)}, Recipe(mixture="Q4_K_M"), kept={"output.weight": "F16"})
    assert (head["output.weight"].format, head["output.weight"].fallback) == ("Q8_0", True)


def test_a_small_model_s_tied_head_falls_back_once() -> None:
    assert chosen(llama(1, tied=True, width=576), Recipe(mixture="Q4_1"))["token_embd.weight"] == "Q8_0"
    assert chosen(llama(1, tied=True, width=640), Recipe(mixture="Q4_K_M"))["token_embd.weight"] == "Q8_0"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_the_published_files_have_the_formats_that_the_mixture_gives(name: str, tmp_path: Path) -> None:
    path, mixture = (real_models.smollm2(), "Q4_1") if name == "smollm2" else (real_models.gemma3(tmp_path), "Q4_K_M")
    source = open_source(path, gguf=True)
    kept = {name: weight.format for name, weight in source.tensors.items()}
    shapes = {name: weight.shape for name, weight in source.tensors.items()}
    found = choose(shapes, Recipe(mixture=mixture), kept=kept, sharing=source.sharing, architecture=source.architecture)
    assert {name: choice.format for name, choice in found.items()} == kept
    assert source.metadata["general.file_type"] == MIXTURES[mixture].file_type


@given(layers=st.integers(1, 200), index=st.integers(0, 199))
def test_more_bits_is_the_published_expression(layers: int, index: int) -> None:
    i = index % layers
    eighth, last = layers // 8, 7 * layers // 8
    assert more_bits(Place(i, layers)) == (i < eighth or i >= last or (i >= eighth and (i - eighth) % 3 == 2))


def test_every_mixture_is_of_formats_that_are_there() -> None:
    for name, mixture in MIXTURES.items():
        wanted = {mixture.base, *(rule.format for rule in mixture.rules)}
        if mixture.base in FORMATS:
            assert wanted <= set(FORMATS), name
    numbers = Counter(mixture.file_type for mixture in MIXTURES.values())
    assert max(numbers.values()) == 1


# --- patterns ---------------------------------------------------------------------------------------------------------


def test_the_first_pattern_that_fits_counts() -> None:
    patterns = read_patterns(["blk.0.*=Q8_0", "blk.*.ffn_down=Q6_K", "token_embd.weight=F16"])
    found = chosen(llama(2), Recipe(format="Q4_K", patterns=patterns))
    assert found["blk.0.ffn_down.weight"] == "Q8_0"
    assert found["blk.1.ffn_down.weight"] == "Q6_K"
    assert found["blk.1.ffn_up.weight"] == "Q4_K"
    assert found["token_embd.weight"] == "F16"
    assert found["output.weight"] == "Q4_K"


def test_a_pattern_goes_before_the_mixture_and_names_kept_tensors() -> None:
    found = chosen(llama(16), Recipe(mixture="Q4_K_M", patterns=(("*attn_v", "Q8_0"), ("output_norm*", "F16"))))
    assert layers_with(found, "attn_v", "Q8_0") == list(range(16))
    assert found["output_norm.weight"] == "F16"
    assert found["blk.0.ffn_down.weight"] == "Q6_K"


@given(name=st.text(st.sampled_from("ab.*?0"), min_size=1, max_size=8))
def test_a_name_without_wildcards_fits_itself_alone(name: str) -> None:
    plain = name.replace("*", "x").replace("?", "y")
    assert fits(plain, plain)
    assert fits(plain, plain + ".weight")
    assert not fits(plain, plain + "z")
    assert fits("*", plain)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_pattern_that_fits_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"the pattern 'blk.9.attn_v' fits no tensor; the file has blk.0.attn_v.weight"
    ):
        chosen(llama(1), Recipe(format="Q8_0", patterns=(("blk.9.attn_v", "Q4_0"),)))


@pytest.mark.parametrize("text", ["Q6_K", "=Q6_K", "blk.*=", ""])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"PATTERN=FORMAT, such as 'blk.\*.ffn_down=Q6_K', got"):
        read_patterns([text])


def test_unknown_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there is no format 'Q9_K'; known: F64, F32"):
        Recipe(format="Q9_K")
    with pytest.raises(ValueError, match="there is no format 'q4_k'"):
        read_patterns(["a=q4_k"])
    with pytest.raises(ValueError, match=r"unknown recipe 'Q4_K'; known: Q4_0, .*Q4_K_M"):
        Recipe(mixture="Q4_K")
    monkeypatch.setattr(recipe, "ENCODERS", {})
    with pytest.raises(ValueError, match="there is no encoder of 'Q4_K'"):
        Recipe(format="Q4_K")
    with pytest.raises(ValueError, match=r"token_embd.weight: Q8_0 makes it Q8_0, which has no encoder yet"):
        chosen(llama(1, tied=True), Recipe(mixture="Q8_0"))


@pytest.mark.parametrize("both", [{}, {"format": "Q8_0", "mixture": "Q8_0"}])
def test_a_format_or_a_mixture(both: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give a format or a mixture, one of them"):
        Recipe(**both)


def test_nearest_names() -> None:
    assert nearest("blk.0.atn_q", ["output", "blk.0.attn_q", "blk.1.attn_q"], count=1) == ["blk.0.attn_q"]
    assert set(DENSE_FORMATS) == {"F64", "F32", "F16", "BF16"}


# --- planted mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("i < n // 8 or i >= 7 * n // 8 or", "i <= n // 8 or i >= 7 * n // 8 or"),
        ("(i - n // 8) % 3 == 2", "i % 3 == 2"),
        ("i >= 7 * n // 8", "i >= n - n // 8"),
    ],
)
def test_another_choice_of_layers_is_found(text: str, bug: str) -> None:
    wrong = mutated(mixtures, text, bug).more_bits
    expected = {16: MORE_OF_16, 20: MORE_OF_20, 30: MORE_OF_30}
    assert any([i for i in range(n) if wrong(Place(i, n))] != layers for n, layers in expected.items())


@pytest.mark.parametrize(
    ("check", "text", "bug"),
    [
        ("test_the_output_head", 'head = "output.weight" if', 'head = "token_embd.weight" if'),
        (
            "test_the_first_pattern_that_fits_counts",
            "next((pair for pair in recipe.patterns",
            "next((pair for pair in reversed(recipe.patterns)",
        ),
    ],
)
def test_a_mistaken_choice_is_found(check: str, text: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(recipe, text, bug)
    monkeypatch.setattr(wrong, "ENCODERS", EVERY)
    monkeypatch.setitem(globals(), "choose", wrong.choose)
    with pytest.raises(AssertionError):
        globals()[check]()
