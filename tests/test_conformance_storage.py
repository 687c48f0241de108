"""Conformance over every way in which a weight can be stored: all are drawn, and a mistake in any one of them is found.

The specification reads stored bytes by itself; the tests here take the engine's decoders away, or make one of them
wrong, and see that it stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wrong_backends import RIGHT, with_kernel

from lepton_ref import conformance, ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.conformance import stored
from lepton_ref.conformance.claim import example, specified
from lepton_ref.conformance.draws_storage import FIRST, ORDER, RECIPES
from lepton_ref.conformance.draws_stored import LIMITS
from lepton_ref.conformance.specified import CLOSED_FORMS, specified_rows
from lepton_ref.conformance.stored import stored_weight
from lepton_ref.plain.formats import round_to
from lepton_ref.plain.ggml import BLOCKS as GGML
from lepton_ref.storage import DENSE_FORMATS, FORMATS, BlockFormat, BlockQuantised, Dense, Weight, gptq
from lepton_ref.storage.kept import Kept

NUMPY = NumpyBackend()
CLAIMS = conformance.CLAIMS
Matrix = np.ndarray[Any, np.dtype[Any]]


def drawn(claim: str, precision: str = "reference", *, seed: int = 0) -> list[conformance.Case]:
    """The examples of a default run."""
    numbers = range(conformance.EXAMPLES)
    return [example(CLAIMS[claim], precision=precision, seed=seed, number=number) for number in numbers]


def name(case: conformance.Case) -> str:
    """How the case's matrix lies, as its data says for people."""
    return case.data.partition(", ")[2] or str(case.options["storage"])


def case_of(wanted: str, kind: str = "moderate", *, seed: int = 0, rows: int = 3) -> conformance.Case:
    """A linear layer with a matrix of this name."""
    rng = np.random.default_rng(seed)
    matrix = RECIPES[wanted](rng, rows, kind)
    x = rng.standard_normal((1, 2, matrix.shape[1])).astype(np.float32)
    return conformance.Case("linear", {"x": x, **matrix.inputs}, {**matrix.options, "kept": False})


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("precision", ["reference", "w8a8", "ggml"])
def test_a_default_run_multiplies_by_every_storage_format(precision: str, seed: int) -> None:
    names = {name(case) for claim in ("linear", "storage") for case in drawn(claim, precision, seed=seed)}
    assert names == {each for each in ORDER if precision != "ggml" or each in GGML}
    assert names >= set(FORMATS) - ({"Q8_1", "Q8_K"} if precision == "ggml" else set())


def test_the_well_known_ones_are_among_the_linear_layers_and_so_is_every_class() -> None:
    cases = drawn("linear")
    assert {name(case) for case in cases} == set(FIRST)
    weights = [stored_weight(case) for case in cases]
    assert {type(weight).__name__ for weight in weights} == {
        *("Dense", "BlockQuantised", "GPTQ", "AWQ", "PackQuantized", "BitsAndBytes4", "BitsAndBytes8"),
        *("FP8", "MX", "NVFP4TwoLevel", "Affine"),
    }


def test_tables_are_stored_in_many_ways_too() -> None:
    assert len({name(case) for case in drawn("embed")}) >= 18
    longer = [example(CLAIMS["embed"], precision="bf16", seed=0, number=n) for n in range(2 * len(ORDER))]
    assert {name(case) for case in longer} == set(ORDER)


def test_other_seeds_have_other_widths_versions_and_granularities() -> None:
    rng = np.random.default_rng(0)
    seen = [[RECIPES[each](rng, 4, "moderate").parts or {} for _ in range(80)] for each in ("GPTQ", "PACKED", "INT")]
    assert {(parts["bits"], parts["version"]) for parts in seen[0]} == {(b, v) for b in (2, 3, 8) for v in (1, 2)}
    assert {(parts["bits"], parts["aligned"]) for parts in seen[1]} == {
        (bits, aligned) for bits in (1, 2, 3, 5, 6, 7, 8) for aligned in (True, False)
    }
    assert {(parts["bits"], *parts["tile"]) for parts in seen[2]} >= {(b, 2, 16) for b in (2, 3, 5, 6, 7)}


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)
def test_scales_of_blocks_are_zeros_subnormal_and_the_largest_and_always_numbers(format: BlockFormat) -> None:
    rng = np.random.default_rng(0)
    found = [RECIPES[format.name](rng, 4, "wild").inputs["w"].reshape(-1, format.nbytes) for _ in range(40)]
    assert format.read is not None
    sizes = set()
    for block in np.concatenate(found):
        parts = {part.name: part.value for part in format.read(block.tobytes(), 0)}
        assert np.isfinite(list(parts.values())).all()
        sizes.add((parts["d"], str(parts["d"])[0]))
    held_as = next((part.what for part in format.fields if part.what in ("fp16", "fp32")), None)
    if held_as is not None or format.name == "IQ1_M":
        least, largest = LIMITS["F32" if held_as == "fp32" else "F16"]
        assert sizes >= {(0.0, "0"), (0.0, "-"), (least, str(least)[0]), (-largest, "-")}


@pytest.mark.parametrize("wanted", ORDER)
def test_no_element_is_nan(wanted: str) -> None:
    """Codes and scales are numbers; what overflows is infinite."""
    for seed, kind in enumerate(("moderate", "few bits", "wild", "wild")):
        if kind == "wild" and wanted in DENSE_FORMATS:
            continue
        values = np.array(specified_rows(case_of(wanted, kind, seed=seed), rounded=True))
        assert not np.isnan(values).any()
        assert kind == "wild" or (np.isfinite(values).all() and len(np.unique(values)) > 2)


# --- the specification ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ORDER)
def test_the_specification_and_the_engine_read_the_same_numbers(wanted: str) -> None:
    for seed, kind in enumerate(("moderate", "few bits", "wild")):
        case = case_of(wanted, kind, seed=seed, rows=2)
        weight = stored_weight(case)
        rounded, closed = (np.array(specified_rows(case, rounded=which)) for which in (True, False))
        every = np.arange(weight.shape[0])
        np.testing.assert_array_equal(weight.decode().astype(np.float64), rounded)
        np.testing.assert_array_equal(np.signbit(weight.decode()), np.signbit(rounded))
        np.testing.assert_array_equal(weight.unrounded(every), closed)
        np.testing.assert_array_equal(specified_rows(case, rounded=True, rows=[1, 0, 1]), rounded[[1, 0, 1]])


@pytest.mark.parametrize("precision", ["reference", "w8a8"])
@pytest.mark.parametrize("wanted", ORDER)
def test_the_specification_calls_no_decoder_of_the_engine(
    wanted: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = dataclasses.replace(case_of(wanted), precision=precision)
    want = specified(case)

    def taken(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the specification asked the engine")

    weight = stored_weight(case)
    classes = {type(weight), Weight}
    for owner, names in ((BlockFormat, ["values"]), *((each, _DECODERS) for each in classes)):
        for each in names:
            if each in vars(owner):
                monkeypatch.setattr(owner, each, taken)
    monkeypatch.setattr(stored, "stored_weight", taken)
    monkeypatch.setattr("lepton_ref.conformance.subjects.stored_weight", taken)
    for module in ("fp8", "mx", "nvfp4_two_level", "scales"):
        monkeypatch.setattr(f"lepton_ref.storage.{module}.decode_array", taken)
    for block in FORMATS.values():
        monkeypatch.setitem(block.__dict__, "decode", taken)
        monkeypatch.setitem(block.__dict__, "unrounded", taken)
    again = specified(dataclasses.replace(case))  # another object, so that nothing is remembered
    np.testing.assert_array_equal(again.view(np.uint32), want.view(np.uint32))
    for engine in (lambda: stored.stored_weight(case), lambda: weight.take(np.arange(1)), weight.decode):
        with pytest.raises(AssertionError, match="the specification asked the engine"):
            engine()


_DECODERS = ("decode", "rows", "take", "unrounded", "_values", "codes", "zeros", "operand", "_block_tables")


def test_every_formula_of_a_block_has_its_closed_form() -> None:
    assert set(CLOSED_FORMS) == {block.formula for block in FORMATS.values()}
    for block in FORMATS.values():
        assert block.read is not None
        bytes_ = np.random.default_rng(1).integers(0, 100, block.nbytes, dtype=np.uint8).tobytes()
        for e in range(block.length):
            parts = {part.name: part.value for part in block.read(bytes_, e)}
            assert round_to(CLOSED_FORMS[block.formula](parts), "fp32") == block.decode_element(bytes_, e)


# --- planted mistakes -------------------------------------------------------------------------------------------------


def decoded(weight: Weight) -> Matrix:
    return weight.decode().astype(np.float64)


def kernel_of(wrong: Callable[[Weight], Matrix | None], *classes: type) -> Any:
    """A backend with a kernel that decodes by itself; where `wrong` gives None it declines."""

    def kernel(x: Matrix, w: Any, b: Matrix | None, *, backend: Any, precision: Any) -> Any:
        matrix = wrong(w.base if isinstance(w, Kept) else w)
        if matrix is None:
            return NotImplemented
        return ops.linear(x, Dense(matrix.astype(np.float64), format="F64"), b, backend=RIGHT, precision=precision)

    return with_kernel("linear", kernel, Kept, *classes)


def default_failures(backend: Any) -> tuple[conformance.Failure, ...]:
    """What a default run finds, of the two claims that multiply by stored weights."""
    return conformance.run(backend, ops=["linear", "storage"]).failures


def exchanged(case: conformance.Case) -> Callable[[Weight], Matrix | None]:
    """Columns 0 and 1 exchanged, 2 and 3, and so on, of matrices of the case's class and format alone."""
    own = stored_weight(case)

    def wrong(weight: Weight) -> Matrix | None:
        if (type(weight), weight.format) != (type(own), own.format):
            return None
        values = decoded(weight)
        return values[:, np.arange(values.shape[1] // 2 * 2).reshape(-1, 2)[:, ::-1].ravel()]

    return wrong


def test_a_mistake_in_any_one_format_is_found_by_a_default_run() -> None:
    """The columns of one format are exchanged in pairs: one backend for each format of a default run."""
    formats = {}
    for case in [*drawn("linear"), *drawn("storage")]:
        weight = stored_weight(case)
        if weight.shape[1] % 2 == 0:
            formats[type(weight).__name__, weight.format] = case
    assert len(formats) >= 45
    for (kind, stored_as), case in formats.items():
        backend = kernel_of(exchanged(case), type(stored_weight(case)))
        assert default_failures(backend), f"{kind} {stored_as}"


def wrong_q5_1(weight: Weight) -> Matrix | None:
    """Copied from a kernel for a format whose high nibbles come first."""
    if weight.format != "Q5_1":
        return None
    assert isinstance(weight, BlockQuantised)
    raw = weight.raw.reshape(-1, 24).copy()
    raw[:, 8:] = raw[:, 8:] >> 4 | raw[:, 8:] << 4
    return np.asarray(FORMATS["Q5_1"].values(raw), dtype=np.float64).reshape(weight.shape)


def wrong_q6_k(weight: Weight) -> Matrix | None:
    """Scale e div 32 where it is e div 16."""
    if weight.format != "Q6_K":
        return None
    assert isinstance(weight, BlockQuantised)
    raw = weight.raw.reshape(-1, 210).copy()
    raw[:, 192:208] = np.repeat(raw[:, 192:200], 2, axis=1)
    return np.asarray(FORMATS["Q6_K"].values(raw), dtype=np.float64).reshape(weight.shape)


def wrong_gptq(weight: Weight) -> Matrix | None:
    """Version 1 read as version 2: z is one too small."""
    if not isinstance(weight, gptq.GPTQ) or weight.version == 2:
        return None
    groups = weight.g_idx
    other = gptq.GPTQ(
        weight.qweight, weight.qzeros, weight.scales, bits=weight.bits, version=2, g_idx=groups,
        group_size=-(-weight.shape[1] // len(weight.qzeros)),
    )  # fmt: skip
    return decoded(other)


KERNELS = {
    "Q5_1 with its nibbles exchanged": (wrong_q5_1, BlockQuantised, "Q5_1"),
    "Q6_K with the wrong group's scale": (wrong_q6_k, BlockQuantised, "Q6_K"),
    "GPTQ v1 with zeros off by one": (wrong_gptq, gptq.GPTQ, "GPTQ4 v1"),
}


@pytest.mark.parametrize("what", KERNELS)
def test_a_wrong_kernel_of_one_format_is_found_and_kept(what: str, tmp_path: Path) -> None:
    wrong, kind, expected = KERNELS[what]
    backend = kernel_of(wrong, kind)
    failures = default_failures(backend)
    assert {name(failure.capsule.case) for failure in failures} >= {expected}
    path = failures[0].save(tmp_path)
    assert conformance.replay(path, backend).wrong == failures[0].message
    assert conformance.replay(path, NUMPY).wrong is None


@pytest.mark.parametrize("what", KERNELS)
def test_the_same_kernel_without_the_mistake_passes(what: str) -> None:
    wrong, kind, _ = KERNELS[what]
    backend = kernel_of(lambda weight: None if wrong(weight) is None else decoded(weight), kind)
    assert not default_failures(backend)


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)
def test_a_mistake_in_the_engines_own_decoder_is_found(format: BlockFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification does not follow it."""

    def wrong(blocks: Any) -> Any:
        values = format.decode(blocks)
        return np.concatenate([values[:, 1:], values[:, :1]], axis=1)

    other = dataclasses.replace(format, decode=wrong, unrounded=None)
    monkeypatch.setattr(stored, "BLOCK_FORMATS", {**FORMATS, format.name: other})
    outcome = conformance.attempt(CLAIMS["linear" if format.name in FIRST else "storage"], NUMPY)
    assert {name(failure.capsule.case) for failure in outcome.failures} == {format.name}


# --- capsules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ORDER)
def test_a_case_of_every_storage_format_is_kept_and_run_again(wanted: str, tmp_path: Path) -> None:
    case = case_of(wanted, "few bits", seed=7)
    conformance.Capsule("storage", case, "why", None, None, 7, 0, "mine").save(tmp_path / "a.npz")
    again = conformance.load_capsule(tmp_path / "a.npz").case
    assert again.options == case.options
    assert again.inputs.keys() == case.inputs.keys()
    np.testing.assert_array_equal(specified(again), specified(case))
    verdict = conformance.replay(tmp_path / "a.npz", NUMPY)
    assert verdict.wrong is None
    assert verdict.elements > 0
    backend = kernel_of(exchanged(case), type(stored_weight(case)))
    assert stored_weight(case).shape[1] % 2 == 1 or conformance.replay(tmp_path / "a.npz", backend).wrong is not None


@pytest.mark.parametrize(
    ("wanted", "change"),
    [
        ("GPTQ4 v1", {"bits": 5}),
        ("GPTQ4 v1", {"group_size": 0}),
        ("GPTQ4 v1", {"nix": 1}),
        ("E4M3", {"tile": [0, 0]}),
        ("NF4", {"shape": [10**9, 10**9]}),
        ("PACKED4", {"shape": "wide"}),
        ("NVFP4 divided", {"whole": -1.0}),
    ],
)
def test_a_damaged_case_is_a_failure_and_no_crash(wanted: str, change: dict[str, Any]) -> None:
    case = case_of(wanted)
    parts = {**case.options["parts"], **change}
    damaged = conformance.Case("linear", case.inputs, {**case.options, "parts": parts})
    verdict = conformance.replay(conformance.Capsule("storage", damaged, "", None, None, 0, 0, ""), NUMPY)
    assert verdict.wrong is not None
    assert verdict.wrong.startswith("raised ")
