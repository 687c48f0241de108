"""Integers packed for folders: other packages' bytes, words written out, every drawn matrix read back, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.compress import integer_codes as codes_page
from lepton_ref.compress import packing_compressed, packing_gptq
from lepton_ref.compress.integer_codes import integer_codes
from lepton_ref.compress.packing import Matrices, Packing
from lepton_ref.files.stored import Stored
from lepton_ref.models.packed import group
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Dense, RowView, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.byte_codes import pack
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.scales import Scales, scales_of, tile_of, tiles

Packer = Callable[[Matrices], Packing]
PACKERS: Mapping[str, Packer] = {
    "gptq": lambda matrices: packing_gptq.pack_gptq(matrices, version=1),
    "gptq_v2": lambda matrices: packing_gptq.pack_gptq(matrices, version=2),
    "awq": packing_gptq.pack_awq_folder,
    "compressed-tensors": packing_compressed.pack_compressed,
    "fp8": packing_compressed.pack_fp8,
}
M = "layers.0.proj"


def one(weight: Weight, **more: Weight) -> Matrices:
    """A layer's matrix, and others of it."""
    packed = {M: weight, **{f"layers.0.{name}": other for name, other in more.items()}}
    return Matrices(packed, layers=frozenset(packed))


def read(packing: Packing) -> Mapping[str, Weight]:
    """What the reader of models makes of the tensors and the config."""
    floats = {name: tensor for name, tensor in packing.tensors.items() if isinstance(tensor, Weight)}
    integers = {name: tensor for name, tensor in packing.tensors.items() if isinstance(tensor, np.ndarray)}
    small = {name: (t.format, t.array) for name, t in packing.tensors.items() if isinstance(t, Stored)}
    others = [*integers, *small]
    return group(
        Reader(packing.config, where="here"), floats, integers, others=others, where="here", codes=small
    ).tensors


def all_bits(weight: Weight) -> tuple[bytes, bytes]:
    """Its values, rounded to float32 and not."""
    return weight.decode().tobytes(), weight.unrounded(np.arange(weight.shape[0])).tobytes()


def affine(
    q: NDArray[Any], z: NDArray[Any] | None, s: NDArray[Any], *, bits: int, format: str = "F16", tile: tuple[int, int]
) -> Affine:
    return Affine(
        pack(np.asarray(q, dtype=np.uint8), bits), scales_of(np.asarray(s, dtype=np.float64), format), z,
        bits=bits, columns=q.shape[1], tile=tile,
    )  # fmt: skip


# --- words written out ------------------------------------------------------------------------------------------------

RAMP = affine(
    np.tile(np.arange(8), (8, 1)), np.full((8, 1), 8, dtype=np.uint8), np.full((8, 1), 0.5), bits=4, tile=(1, 8)
)


def words(array: Any) -> list[str]:
    return [f"{word:08x}" for word in array.view(np.uint32).ravel()]


def test_gptq_runs_down_the_inputs_and_version_1_stores_one_less() -> None:
    for version, zero in ((1, "77777777"), (2, "88888888")):
        made = packing_gptq.pack_gptq(one(RAMP), version=version)
        assert words(made.tensors[f"{M}.qweight"]) == ["76543210"] * 8
        assert words(made.tensors[f"{M}.qzeros"]) == [zero]
        assert made.config["group_size"] == -1
        assert (made.config["sym"], made.config["desc_act"]) == (True, False)
        assert np.asarray(made.tensors[f"{M}.g_idx"]).tolist() == [0] * 8


def test_awq_interleaves_the_outputs() -> None:
    q = np.tile(np.arange(8), (8, 1)).T
    z = np.arange(8, dtype=np.uint8)[:, None]
    made = packing_gptq.pack_awq_folder(one(affine(q, z, np.ones((8, 1)), bits=4, tile=(1, 8))))
    assert words(made.tensors[f"{M}.qweight"]) == ["75316420"] * 8
    assert words(made.tensors[f"{M}.qzeros"]) == ["75316420"]


def test_compressed_tensors_runs_along_rows_and_zeros_down_the_outputs() -> None:
    q = np.tile(np.arange(8), (8, 1))
    z = np.arange(8, dtype=np.uint8)[:, None]
    made = packing_compressed.pack_compressed(one(affine(q, z, np.ones((8, 1)), bits=4, tile=(1, 8))))
    assert words(made.tensors[f"{M}.weight_packed"]) == ["76543210"] * 8
    assert words(made.tensors[f"{M}.weight_zero_point"]) == ["76543210"]
    assert np.asarray(made.tensors[f"{M}.weight_shape"]).tolist() == [8, 8]
    symmetric = packing_compressed.pack_compressed(one(RAMP))
    assert f"{M}.weight_zero_point" not in symmetric.tensors
    settings = symmetric.config["config_groups"]["group_0"]["weights"]
    assert settings == {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "group_size": None, "dynamic": False,
    }  # fmt: skip


# --- other packages' bytes --------------------------------------------------------------------------------------------


def golden() -> Mapping[str, NDArray[Any]]:
    return np.load(GOLDEN / "storage_packed" / "packed.npz")


def numbers(array: NDArray[Any]) -> Dense:
    return Dense(array, format={"f2": "F16", "f4": "F32"}[array.dtype.str[1:]])


def same(made: Packing, wanted: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the tensors of the one module are these, byte for byte."""
    found = {
        name.removeprefix(f"{M}."): tensor.array if isinstance(tensor, Dense) else tensor
        for name, tensor in made.tensors.items()
    }
    assert set(found) == set(wanted)
    return all(
        isinstance(found[name], np.ndarray)
        and (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        and found[name].tobytes() == np.ascontiguousarray(array).tobytes()
        for name, array in wanted.items()
    )


def check_autogptq(page: ModuleType, bits: int) -> None:
    file = golden()
    parts = {name: file[f"gptq{bits}_{name}"] for name in ("qweight", "qzeros", "scales", "g_idx")}
    parts["scales"] = parts["scales"].astype("<f2")  # as AutoGPTQ saves them
    weight = GPTQ(
        parts["qweight"], parts["qzeros"], numbers(parts["scales"]), bits=bits, version=1, g_idx=parts["g_idx"]
    )
    assert not (weight.zeros(np.arange(32)) == 0).any()
    made = page.pack_gptq(one(weight), version=1)
    assert same(made, parts)
    assert (made.config["desc_act"], made.config["group_size"], made.config["bits"]) == (True, 8, bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_autogptq_packs_the_same_bytes(bits: int) -> None:
    check_autogptq(packing_gptq, bits)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("c.zeros.T - np.uint8(version == 1)", "c.zeros.T"),
        ("pack(c.codes.T, c.bits, axis=0)", "pack(c.codes[:, ::-1].T, c.bits, axis=0)"),
        ("c.groups.astype(np.int32)", "np.sort(c.groups).astype(np.int32)"),
        ("c.scales.array.T", "c.scales.array[::-1].T"),
    ],
)
def test_other_bytes_would_be_found(text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check_autogptq(mutated(packing_gptq, text, bug), 4)


def test_autoawq_s_words_come_back() -> None:
    file = golden()
    parts = {name: file[f"awq_{name}"] for name in ("qweight", "qzeros", "scales")}
    made = packing_gptq.pack_awq_folder(one(AWQ(parts["qweight"], parts["qzeros"], numbers(parts["scales"]))))
    assert same(made, parts)
    assert made.config["group_size"] == 8


CASES = [(bits, kind) for bits in range(1, 9) for kind in ("group", "group_asymmetric")]
CASES += [(3, "channel_asymmetric"), (3, "tensor")]


@pytest.mark.parametrize(("bits", "kind"), CASES)
def test_compressed_tensors_packs_the_same_bytes(bits: int, kind: str) -> None:
    file = golden()
    names = ["weight_packed", "weight_scale", "weight_shape"] + ["weight_zero_point"] * kind.endswith("asymmetric")
    parts = {name: file[f"pack{bits}_{kind}_{name}"] for name in names}
    shape = tuple(int(n) for n in parts["weight_shape"])
    weight = PackQuantized(
        parts["weight_packed"], numbers(parts["weight_scale"]), shape=shape, bits=bits,
        zero_point=parts.get("weight_zero_point"), aligned=False,
    )  # fmt: skip
    made = packing_compressed.pack_compressed(one(weight))
    assert same(made, parts)
    settings = made.config["config_groups"]["group_0"]["weights"]
    assert (settings["strategy"], settings["symmetric"]) == (kind.split("_")[0], not kind.endswith("asymmetric"))


# --- every matrix is read back ----------------------------------------------------------------------------------------


@st.composite
def matrices(draw: st.DrawFn) -> Affine:
    bits = draw(st.integers(2, 8))
    inputs = draw(st.sampled_from([1, 6, 8, 32, 64]))
    outputs = draw(st.sampled_from([1, 3, 8, 32]))
    per = draw(st.sampled_from(["tensor", "channel", 2, 8, 32, (4, 8), (128, 128)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tile = tile_of(per, (outputs, inputs))
    count = tiles((outputs, inputs), tile)
    kind = draw(st.sampled_from(["none", "signed", "unsigned", "unsigned, none is 0"]))
    zeros: NDArray[Any] | None = None
    if kind == "signed":
        zeros = rng.integers(-(1 << bits - 1), 1 << bits - 1, count).astype(np.int8)
    elif kind != "none":
        zeros = rng.integers(kind.endswith("0"), 1 << bits, count).astype(np.uint8)
    kept = draw(st.sampled_from(["F16", "F16", "BF16", "F32"]))
    dtype = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}[kept]
    stored = rng.standard_normal(count).astype("<f2" if kept == "F16" else "<f4")
    raw = (stored.view(np.uint32) >> 16).astype(dtype) if kept == "BF16" else stored.astype(dtype)
    q = rng.integers(0, 1 << bits, (outputs, inputs)).astype(np.uint8)
    return Affine(pack(q, bits), Scales(raw, kept), zeros, bits=bits, columns=inputs, tile=tile)


REFUSED = re.compile(rf"^{re.escape(M)} has [^\n]+$")


def sayable(weight: Affine, name: str) -> bool:
    """Whether a format has a form for the matrix."""
    (outputs, inputs), bits = weight.shape, weight.bits
    if inputs % weight.tile[1]:
        return False
    if name == "compressed-tensors":
        return True
    whole = outputs % 8 == 0 and bits == 4 if name == "awq" else outputs * bits % 32 == 0 == inputs * bits % 32
    zeros = weight.zeros is not None and bool((weight.zeros == (-(1 << bits - 1) if weight.signed else 0)).any())
    return whole and bits in (2, 3, 4, 8) and weight.scales.format == "F16" and not (name == "gptq" and zeros)


@given(weight=matrices(), name=st.sampled_from(["gptq", "gptq_v2", "awq", "compressed-tensors"]))
def test_a_matrix_is_read_back_or_refused(weight: Affine, name: str) -> None:
    if not sayable(weight, name):
        with pytest.raises(ValueError, match=REFUSED):
            PACKERS[name](one(weight))
        return
    assert all_bits(read(PACKERS[name](one(weight)))[f"{M}.weight"]) == all_bits(weight)


@given(weight=matrices())
def test_codes_are_those_of_the_weight(weight: Affine) -> None:
    if weight.shape[1] % weight.tile[1]:
        with pytest.raises(ValueError, match="no whole groups"):
            integer_codes(weight)
        return
    c = integer_codes(weight)
    steps = c.codes.astype(np.int64) - c.zeros.astype(np.int64)[:, c.groups]
    scales = c.scales.decode().astype(np.float64)[:, c.groups]
    assert (steps * scales).tobytes() == weight.unrounded(np.arange(weight.shape[0])).tobytes()


def test_rows_of_a_matrix_are_a_matrix() -> None:
    weight = grid(z=5)
    view = RowView(weight, np.array([3, 0, 3, 9]))
    made = packing_compressed.pack_compressed(one(view))
    assert all_bits(read(made)[f"{M}.weight"]) == all_bits(view)


def test_a_forgotten_offset_would_be_found() -> None:
    wrong = mutated(codes_page, "(stored[index] + flip)", "(stored[index])")
    weight = affine(np.full((8, 8), 9), None, np.ones((8, 1)), bits=4, tile=(1, 8))
    assert (wrong.integer_codes(weight).zeros == 0).all()
    assert (integer_codes(weight).zeros == 8).all()


@pytest.mark.parametrize("per", ["tensor", "channel", (8, 16), (128, 128)])
@pytest.mark.parametrize("scale_format", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["compressed-tensors", "fp8"])
def test_fp8_is_read_back(per: Any, scale_format: str, name: str) -> None:
    rng = np.random.default_rng(3)
    q = rng.integers(0, 0x78, (24, 40)).astype(np.uint8)
    tile = tile_of(per, q.shape)
    s = np.exp2(rng.integers(-3, 3, tiles(q.shape, tile)).astype(np.float64))
    weight = FP8(q, scales_of(s, scale_format), format="E4M3FN", tile=tile)
    if name == "fp8" and scale_format != "F32":
        with pytest.raises(ValueError, match=f"{M} has scales in {scale_format}; fp8 keeps them as F32"):
            PACKERS[name](one(weight))
        return
    made = PACKERS[name](one(weight))
    assert all_bits(read(made)[f"{M}.weight"]) == all_bits(weight)


# --- what a format cannot say -----------------------------------------------------------------------------------------


def grid(
    bits: int = 4, *, outputs: int = 32, inputs: int = 32, size: int = 8, z: int = 3, format: str = "F16"
) -> Affine:
    q = np.arange(outputs * inputs).reshape(outputs, inputs) % (1 << bits)
    groups = (outputs, inputs // size)
    return affine(q, np.full(groups, z, dtype=np.uint8), np.ones(groups), bits=bits, format=format, tile=(1, size))


def floats(format: str = "E4M3FN", tile: tuple[int, int] = (32, 32), scales: str = "F32") -> FP8:
    q = np.zeros((32, 32), dtype=np.uint8)
    return FP8(q, scales_of(np.ones(tiles(q.shape, tile)), scales), format=format, tile=tile)


def shuffled() -> GPTQ:
    made = packing_gptq.pack_gptq(one(grid()), version=2)
    t: Any = {name.removeprefix(f"{M}."): tensor for name, tensor in made.tensors.items()}
    return GPTQ(t["qweight"], t["qzeros"], t["scales"], bits=4, version=2, g_idx=t["g_idx"][::-1].copy())


def uneven() -> GPTQ:
    weight = shuffled()
    g_idx = np.asarray([0] * 9 + [1] * 7 + [2] * 8 + [3] * 8, dtype=np.int32)
    return GPTQ(weight.qweight, weight.qzeros, weight.scales, bits=4, version=2, g_idx=g_idx)


def beside(weight: Weight, other: Weight) -> Matrices:
    return one(weight, other=other)


REFUSALS: list[tuple[str, Callable[[], Matrices], str]] = [
    ("gptq", lambda: one(grid(5)), "has 5 bits; gptq has 2, 3, 4 or 8"),
    ("gptq_v2", lambda: one(grid(3, inputs=40)), "has 40 inputs of 3 bits, no whole words of 32; take other bits"),
    ("gptq", lambda: one(grid(outputs=12)), "has 12 outputs of 4 bits, no whole words of 32; take other bits"),
    ("gptq", lambda: one(grid(z=0)), "has zero points of 0, of which engines of gptq make 0 or 2^b; write gptq_v2"),
    ("gptq", lambda: one(grid(format="F32")), "has scales in F32; engines of gptq hold them in float16: quantise with"),
    ("gptq_v2", lambda: one(grid(format="BF16")), "has scales in BF16; engines of gptq_v2 hold them in float16"),
    ("gptq", lambda: beside(grid(), grid(8)), "layers.0.other has 8 bits, layers.0.proj has 4; gptq says them once"),
    ("gptq", lambda: beside(grid(), grid(size=16)), "layers.0.other has groups of 16, layers.0.proj has 8; gptq says"),
    ("awq", lambda: beside(grid(size=32), grid(size=16)), "layers.0.proj has groups of 32, layers.0.other has 16; awq"),
    ("gptq", lambda: Matrices({M: grid()}), "is in no layer; gptq leaves it dense: do so, or take compressed-tensors"),
    ("awq", lambda: Matrices({"lm_head": grid()}), "lm_head is in no layer; awq leaves it dense"),
    (
        "gptq",
        lambda: Matrices({M: grid()}, dense=("layers.0.up",), layers=frozenset([M, "layers.0.up"])),
        "layers.0.up stays dense; gptq packs every matrix of the layers: quantise it too, or take compressed-tensors",
    ),
    ("awq", lambda: one(grid(3)), "has 3 bits; awq has 4"),
    ("awq", lambda: one(grid(outputs=12)), "has 12 outputs; awq packs them in eights"),
    ("awq", lambda: one(grid(format="F32")), "has scales in F32; engines of awq hold them in float16"),
    ("awq", lambda: one(shuffled()), "has groups in an order of their own; awq knows none: write gptq"),
    (
        "compressed-tensors",
        lambda: one(shuffled()),
        "has groups in an order of their own; compressed-tensors knows none",
    ),
    ("gptq", lambda: one(uneven()), "has groups of 7 to 9 inputs; groups of one size are packed"),
    ("awq", lambda: Matrices({M: grid()}, layers=frozenset([M]), turned=frozenset([M])), "is a Conv1D, unknown to awq"),
    (
        "compressed-tensors",
        lambda: Matrices({M: grid()}, turned=frozenset([M])),
        "is a Conv1D, unknown to compressed-tensors; take gptq",
    ),
    ("fp8", lambda: Matrices({M: floats()}, turned=frozenset([M])), "is a Conv1D, unknown to fp8; take gptq"),
    ("gptq", lambda: one(floats()), "is kept as FP8_E4M3FN; integers with scales are packed: quantise it to a grid"),
    ("gptq", lambda: one(RowView(floats(), np.arange(32))), "is kept as FP8_E4M3FN; integers with scales are packed"),
    ("fp8", lambda: one(grid()), "is kept as UINT4; FP8 in E4M3FN is written: encode it so"),
    ("fp8", lambda: one(floats("E5M2")), "is kept as FP8_E5M2; FP8 in E4M3FN is written: encode it so"),
    ("fp8", lambda: beside(floats(), floats(tile=(16, 16))), "layers.0.other has tiles of (16, 16), not (32, 32); fp8"),
    (
        "compressed-tensors",
        lambda: one(floats(tile=(1, 8))),
        "has FP8 groups of 8 inputs; compressed-tensors has a scale",
    ),
    (
        "compressed-tensors",
        lambda: one(floats(scales="E8M0")),
        "has scales in E8M0; compressed-tensors keeps them as F32",
    ),
    (
        "compressed-tensors",
        lambda: beside(floats(), grid()),
        "layers.0.other is no FP8, as layers.0.proj is; one format",
    ),
    (
        "compressed-tensors",
        lambda: beside(floats(), floats(tile=(1, 32))),
        "layers.0.other has a scale a channel, layers.0.proj a tensor, or other blocks; quantise alike",
    ),
]


@pytest.mark.parametrize(("name", "make", "message"), REFUSALS, ids=[message for _, _, message in REFUSALS])
def test_what_a_format_cannot_say_is_refused(name: str, make: Callable[[], Matrices], message: str) -> None:
    whole = message if message.startswith(("layers", "lm_head")) else f"{M} {message}"
    with pytest.raises(ValueError, match=re.escape(whole)) as error:
        PACKERS[name](make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PACKERS)
def test_nothing_to_pack_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"no matrix is quantised, so there is nothing for {name} to say; give at least"
    ):
        PACKERS[name](Matrices({}))


# --- what several say together ----------------------------------------------------------------------------------------


def test_compressed_tensors_names_the_modules_of_several_kinds() -> None:
    made = packing_compressed.pack_compressed(beside(grid(), grid(8, z=128, size=16)))
    groups = made.config["config_groups"]
    assert [(g["targets"], g["weights"]["num_bits"], g["weights"]["symmetric"]) for g in groups.values()] == [
        (["layers.0.proj"], 4, False), (["layers.0.other"], 8, True),
    ]  # fmt: skip
    assert made.notes
    found = read(made)
    assert all_bits(found["layers.0.other.weight"]) == all_bits(grid(8, z=128, size=16))


def test_one_group_beside_others_of_the_same_length() -> None:
    made = packing_gptq.pack_gptq(beside(grid(size=16), grid(inputs=16, size=16)), version=2)
    assert made.config["group_size"] == 16
    assert read(made)["layers.0.other.weight"].shape == (32, 16)


def test_version_1_with_zero_points_says_who_reads_it() -> None:
    assert packing_gptq.pack_gptq(one(grid(z=3)), version=1).notes
    assert not packing_gptq.pack_gptq(one(grid(z=8)), version=1).notes
    assert not packing_gptq.pack_gptq(one(grid(z=3)), version=2).notes


def test_a_head_may_be_gptq() -> None:
    made = packing_gptq.pack_gptq(Matrices({M: grid(), "lm_head": grid()}, layers=frozenset([M])), version=2)
    assert made.config["lm_head"] is True
    assert "lm_head.qweight" in made.tensors
