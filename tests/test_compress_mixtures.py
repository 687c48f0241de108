"""Every mixture against llama.cpp's own choice of every tensor, for models of many shapes; and which it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from golden_cases import GOLDEN
from planted import mutated

from lepton_ref.compress import mixtures, recipe
from lepton_ref.compress.mixtures import FILE_TYPES, MIXTURES
from lepton_ref.compress.recipe import Recipe, choose, starved
from lepton_ref.storage import FORMATS

FOUND: dict[str, Any] = json.loads((GOLDEN / "mixtures" / "mixtures.json").read_text(encoding="utf-8"))
SHAPES = [dict(zip(FOUND["fields"], values, strict=True)) for values in FOUND["shapes"]]
SPLIT = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FUSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")


def numbers(spans: str) -> Iterator[int]:
    """ "0-3 7" → 0, 1, 2, 3, 7."""
    for span in spans.split():
        low, _, high = span.partition("-")
        yield from range(int(low), int(high or low) + 1)


def tensors(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width = shape["width"]
    kinds = FUSED if shape["architecture"] == "phi3" else SPLIT
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (2, width)}
    for layer in range(shape["layers"]):
        found |= {f"blk.{layer}.{kind}.weight": (2, width) for kind in kinds}
        found |= {f"blk.{layer}.{kind}.weight": (width,) for kind in ("attn_norm", "ffn_norm")}
    found["output_norm.weight"] = (width,)
    return found if shape["tied"] else found | {"output.weight": (2, width)}


def expected(shape: dict[str, Any], group: dict[str, Any]) -> dict[str, str]:
    """What the golden says of each tensor."""
    found = {}
    for name, size in tensors(shape).items():
        kind = name.removesuffix(".weight").split(".")[-1]
        layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
        others = group["others"].get(kind, {})
        special = [f for f, layers in others.items() if layers == "all" or layer in numbers(layers)]
        found[name] = "F32" if len(size) == 1 else group.get(kind, special[0] if special else group["most"])
    return found


def ours(mixture: str, shape: dict[str, Any], how: ModuleType = recipe) -> tuple[dict[str, str], bool]:
    """What we choose, and whether llama.cpp would want importance for it."""
    what = how.Recipe(mixture=mixture)
    choices = how.choose(
        tensors(shape),
        what,
        kept=dict.fromkeys(tensors(shape), "F32"),
        sharing=shape["sharing"],
        architecture=shape["architecture"],
        importance=shape["importance"],
    )
    found = {name: choice.format for name, choice in choices.items()}
    return found, bool(how.starved(choices, what, () if not shape["importance"] else found))


def disagreements(mixture: str, how: ModuleType = recipe) -> list[tuple[dict[str, Any], str]]:
    """(shape, tensor or what else) of each difference from llama.cpp."""
    entry = FOUND["mixtures"][mixture]
    refused = set(numbers(entry["refused without importance"]))
    wrong: list[tuple[dict[str, Any], str]] = []
    for group in entry["groups"]:
        for index in numbers(group["shapes"]) if "most" in group else ():
            shape = SHAPES[index]
            found, hungry = ours(mixture, shape, how)
            wrong += [(shape, name) for name, wanted in expected(shape, group).items() if found[name] != wanted]
            wrong += [(shape, "importance")] if hungry != (index in refused) else []
    return wrong


def test_the_golden_is_of_every_mixture_and_every_shape() -> None:
    assert set(FOUND["mixtures"]) == set(MIXTURES)
    for mixture, entry in FOUND["mixtures"].items():
        seen = [index for group in entry["groups"] for index in numbers(group["shapes"])]
        assert sorted(seen) == list(range(len(SHAPES))), mixture
    for field, values in (("layers", {2, 8, 16, 30, 80}), ("sharing", {1, 2, 4, 8}), ("importance", {False, True})):
        assert {shape[field] for shape in SHAPES} == values


@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_tensor_has_the_format_that_llama_cpp_gives_it(mixture: str) -> None:
    assert disagreements(mixture) == []
    assert MIXTURES[mixture].file_type == FOUND["mixtures"][mixture]["file type"]


def test_rows_for_which_llama_cpp_has_no_fallback_are_kept_in_f16() -> None:
    without = [name for name, entry in FOUND["mixtures"].items() if any("most" not in g for g in entry["groups"])]
    assert without == ["Q1_0"]
    shape = next(shape for shape in SHAPES if shape["width"] == 576)
    assert set(ours("Q1_0", shape)[0].values()) == {"F16", "F32", "Q8_0"}


def test_formats_and_mixtures_have_the_numbers_of_gguf() -> None:
    assert all(FILE_TYPES[name] == MIXTURES[name].file_type for name in MIXTURES if name in FORMATS)
    assert (FILE_TYPES["Q4_K"], FILE_TYPES["NVFP4"], FILE_TYPES["BF16"]) == (14, 39, 32)


def test_which_tensors_go_without_importance() -> None:
    shape = {"layers": 2, "sharing": 1, "architecture": "llama", "tied": False, "width": 256, "importance": True}
    sizes, what = tensors(shape), Recipe(format="IQ2_XS", patterns=(("blk.0.*", "IQ3_S"),))
    choices = choose(sizes, what, kept=dict.fromkeys(sizes, "F32"), importance=True)
    assert starved(choices, what, ()) == [f"blk.1.{kind}.weight" for kind in SPLIT]
    assert starved(choices, what, MappingProxyType({"blk.1.attn_q.weight": 0})) == [
        f"blk.1.{kind}.weight" for kind in SPLIT[1:]
    ]


# --- planted mistakes -------------------------------------------------------------------------------------------------

PLANTED = [
    (mixtures, "place.count // 8 <= place.index", "place.count // 8 < place.index", "IQ3_XS"),
    (mixtures, 'tuple(rules), head="Q5_K"', 'tuple(rules), head="Q6_K"', "IQ2_M"),
    (mixtures, 'head="Q5_K", more_in_70b=False', 'head="Q5_K"', "IQ1_S"),
    (mixtures, '_lowest("IQ2_XS", 28', '_lowest("IQ2_S", 28', "IQ2_S"),
    (mixtures, 'Rule("attn_v", "IQ3_S", unweighted)', 'Rule("attn_v", "IQ3_S")', "IQ3_XXS"),
    (mixtures, "return place.sharing >= 4", "return place.sharing >= 2", "IQ4_XS"),
    (mixtures, '"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})', '"IQ2_XXS", "IQ2_XS", "IQ2_S"})', "IQ3_XS"),
    (recipe, 'return "attn_v" if kind == "attn_qkv" else kind', "return kind", "Q4_K_M"),
    (recipe, 'architecture == "qwen2" or', "False or", "Q3_K_M"),
]


@pytest.mark.parametrize(("module", "text", "bug", "mixture"), PLANTED)
def test_a_mistaken_rule_is_found(
    module: ModuleType, text: str, bug: str, mixture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(module, text, bug)
    if module is mixtures:
        for name in ("MIXTURES", "IMPORTANCE_WANTED"):
            monkeypatch.setattr(recipe, name, getattr(wrong, name))
        wrong = recipe
    assert disagreements(mixture, wrong)
