"""The suite: right backends pass, wrong ones are killed by the checks that are meant to, and it says what it did."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import wrong_backends
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strict_backend import StrictBackend
from wrong_backends import WRONG

from lepton_ref import conformance
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.conformance import strategies
from lepton_ref.conformance.case import LAYOUTS, Given, laid_out
from lepton_ref.conformance.claim import exact_values, example, specified
from lepton_ref.conformance.subjects import SUBJECTS
from lepton_ref.conformance.verdict import equal_bits, within_bound
from lepton_ref.interface import XP_NAMES
from lepton_ref.numerics import PRECISIONS
from lepton_ref.ops import linear
from lepton_ref.plain.real import Real, UndecidedError
from lepton_ref.storage.kept import Kept

NUMPY = NumpyBackend()
CLAIMS = conformance.CLAIMS
KILLED = [(name, check) for name, wrong in WRONG.items() for check in wrong.checks]
ROUNDED_ONCE = ("bf16", "fp16", "fp8", "w8a8", "w4a8")


# --- right backends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [NUMPY, StrictBackend()], ids=lambda backend: backend.name)
def test_a_right_backend_passes(backend: Any) -> None:
    report = conformance.run(backend, examples=20)
    assert report.passed, repr(report)
    assert not report.failures
    assert [outcome.check for outcome in report.outcomes] == list(CLAIMS)
    assert all(outcome.elements > 0 for outcome in report.outcomes)
    assert "conforms on these examples" in report.verdict


@pytest.mark.parametrize("precision", ROUNDED_ONCE)
def test_a_right_backend_passes_under_every_precision_that_rounds_once(precision: str) -> None:
    report = conformance.run(NUMPY, precisions=[precision], examples=4)
    assert report.passed, repr(report)


@pytest.mark.parametrize("precision", ["float64", "fast"])
def test_without_a_proof_the_bounds_hold_and_laws_are_not_tried(precision: str) -> None:
    report = conformance.run(NUMPY, precisions=[precision], examples=4)
    assert report.passed, repr(report)
    tried = {outcome.check for outcome in report.outcomes if outcome.skipped is None}
    assert tried == {name for name, claim in CLAIMS.items() if claim.kind != "law"}


@pytest.mark.parametrize("precision", ["sequential-fp16", "kahan-bf16", "stochastic-fp16", "a100-fp16", "a100-tf32"])
def test_a_right_backend_passes_under_machine_models(precision: str) -> None:
    report = conformance.run(NUMPY, ops=["linear"], precisions=[precision], examples=4)
    assert report.passed, repr(report)


def test_what_cannot_be_tried_is_said_and_is_no_pass() -> None:
    report = conformance.run(NUMPY, ops=["rms_norm"], precisions=["a100-fp16"])
    assert not report.passed
    assert report.outcomes[0].verdict == "not tried: of a machine model, linear layers alone are checked"
    assert report.verdict.startswith("nothing was tried")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("precision", ["reference", *ROUNDED_ONCE, "float64", "fast"])
def test_a_right_backend_passes_with_many_examples(seed: int, precision: str) -> None:
    report = conformance.run(NUMPY, precisions=[precision], seed=seed, examples=200)
    assert report.passed, repr(report)


# --- wrong backends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "check"), KILLED, ids=lambda part: part)
def test_a_wrong_backend_is_killed_by_the_check_that_is_meant_to(name: str, check: str) -> None:
    with pytest.raises(conformance.ConformanceError) as caught:
        check_of(check)(WRONG[name].make())
    failure = caught.value.outcome.failures[0]
    assert caught.value.outcome.check == check
    assert str(failure) in str(caught.value)
    assert conformance.replay(failure.capsule, WRONG[name].make()).wrong is not None
    assert conformance.replay(failure.capsule, NUMPY).wrong is None


def test_every_check_kills_a_wrong_backend() -> None:
    assert {check for _, check in KILLED} == set(CLAIMS)
    assert len(WRONG) >= 40


def test_a_bound_kills_what_bits_cannot_be_asked_for() -> None:
    """Under `fast` any order in float32 is right, and sums in half precision are not."""
    halves = wrong_backends.matmul_in(lambda x: x.astype(np.float16).astype(np.float64))
    assert conformance.attempt(CLAIMS["linear"], halves, precision="fast").failures
    single = wrong_backends.matmul_in(lambda x: x.astype(np.float32)[..., ::-1][..., ::-1])
    assert not conformance.attempt(CLAIMS["linear"], single, precision="fast").failures
    assert conformance.attempt(CLAIMS["linear"], single, precision="float64").failures


def test_a_backend_that_raises_fails_and_the_run_goes_on() -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of\nmemory")

    report = conformance.run(wrong_backends.Altered(matmul=broken), ops=["linear", "add"], examples=4)
    assert [outcome.passed for outcome in report.outcomes] == [False, True]
    assert report.failures[0].message == "raised RuntimeError: out of memory"


def test_an_example_that_the_specification_leaves_undecided_is_no_failure_and_counts_nothing() -> None:
    """Two capped scores near the same limit, and a sink so far off that no digits compare the two differences."""
    arrays = {
        "q": np.array([[[[-1e38]]]], dtype=np.float32),
        "k": np.array([[[[0.75]], [[0.0015]]]], dtype=np.float32),
        "v": np.array([[[[1.0]], [[1 + 2.0**-23]]]], dtype=np.float32),
        "mask": np.ones((1, 1, 2), dtype=bool),
        "sinks": np.array([-1e30], dtype=np.float32),
    }
    case = conformance.Case("attention", arrays, {"scale": 0.5, "cap": 2.0})
    with pytest.raises(UndecidedError):
        specified(case)
    kept = conformance.Capsule("attention", case, "", None, None, 0, 0, "")
    assert conformance.replay(kept, NUMPY).elements == 0
    assert conformance.replay(kept, NUMPY).wrong is None


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_a_kernel_that_always_declines_is_no_pass() -> None:
    backend = wrong_backends.always_declines()
    report = conformance.run(backend, ops=["linear"], examples=12)
    assert all(outcome.passed for outcome in report.outcomes)
    assert set(report.idle) == {"linear/Dense", "linear/Kept"}
    assert not report.passed
    assert "2 kernels were not exercised" in report.verdict
    reason = {f"kernel linear/{name}": "there is no such device here" for name in ("Dense", "Kept")}
    assert conformance.run(backend, ops=["linear"], examples=12, declared=reason).passed
    assert conformance.run(backend, ops=["add"], examples=2).passed, "linear layers are not what is checked"


def test_a_kernel_that_nothing_asks_is_told() -> None:
    backend = wrong_backends.with_kernel("linear", lambda *args, **kwargs: NotImplemented, str)
    assert "was never asked" in conformance.run(backend, ops=["linear"], examples=2).idle["linear/str"]
    backend = wrong_backends.with_kernel("lineal", lambda *args, **kwargs: NotImplemented)
    assert "no op 'lineal'" in conformance.run(backend, ops=["linear"], examples=2).idle["lineal"]


def test_kernels_that_ran_are_counted() -> None:
    backend = wrong_backends.linear_kernel(wrong_backends.once)
    report = conformance.run(backend, ops=["linear"], examples=12)
    assert report.passed, repr(report)
    assert all(ran > 0 for ran, _ in report.kernels.values())
    assert "linear/Dense" in repr(report)


def test_a_kernel_finds_its_backends_own_attributes_and_kept_weights() -> None:
    def kernel(x: Any, w: Any, b: Any, *, backend: Any, precision: Any) -> Any:
        assert backend.stream == 3
        assert sum(panel.stop - panel.start for panel in w.panels(backend=backend)) == w.shape[0]
        return NotImplemented if b is None else linear(x, w.base, b, backend=NUMPY, precision=precision)

    backend = wrong_backends.with_kernel("linear", kernel, Kept)
    backend.stream = 3
    report = conformance.run(backend, ops=["linear"], examples=24)
    assert report.passed, repr(report)
    ran, declined = report.kernels["linear/Kept"]
    assert ran > 0
    assert declined > 0


# --- what a run says --------------------------------------------------------------------------------------------------


def failing() -> conformance.Report:
    return conformance.run(WRONG["the bias is lost"].make(), ops=["linear", "add"], examples=16)


def test_a_report_says_what_failed_in_text_json_and_html() -> None:
    report = failing()
    assert not report.passed
    found = json.loads(report.to_json())
    assert found["passed"] is False
    assert [check["verdict"] for check in found["checks"]] == ["FAILED", "passed"]
    assert found["checks"][0]["failures"][0] == str(report.failures[0])
    text = repr(report)
    assert "1 of 2 checks FAILED" in text
    assert "FAILED linear under reference, seed 0, example" in text
    html = report._repr_html_()
    assert "<td>FAILED</td>" in html
    assert "<caption>&lt;strict" in conformance.run(StrictBackend(), ops=["members"])._repr_html_()


def test_a_run_counts_what_was_ambiguous() -> None:
    outcome = conformance.attempt(CLAIMS["linear"], NUMPY, examples=8)
    assert 0 < outcome.ambiguous < outcome.rounded
    assert outcome.share == outcome.ambiguous / outcome.rounded


def test_a_declared_failure_is_reported_and_fails_nothing() -> None:
    backend = WRONG["exp is flushed below -87"].make()
    report = conformance.run(backend, ops=["library"], declared={"library": "the device has no double exp"})
    assert report.passed
    assert report.outcomes[0].failures
    assert report.outcomes[0].verdict == "declared: the device has no double exp"
    report = conformance.run(NUMPY, ops=["library"], declared={"library": "the device has no double exp"})
    assert report.outcomes[0].verdict.startswith("passed, though declared")


def test_progress_sees_all_the_work() -> None:
    seen: list[Any] = []

    def watch(work: Any) -> Any:
        seen.extend(work)
        return work

    conformance.run(NUMPY, ops=["add", "members"], precisions=["reference", "bf16"], examples=1, progress=watch)
    assert seen == [("members", "reference"), ("add", "reference"), ("add", "bf16")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": ["nix"]}, "no check named nix; known: members, "),
        ({"ops": []}, r"no check named \(none given\)"),
        ({"precisions": "bf16"}, "precisions must be a list of names, got 'bf16'"),
        ({"precisions": []}, "precisions must be a list of names"),
        ({"precisions": ["fp7"]}, "unknown precision 'fp7'"),
        ({"ops": ["add"], "seed": -1}, "a seed is at least 0"),
        ({"ops": ["add"], "examples": 0}, "at least one example, got 0 and 0"),
        ({"declared": {"nix": "why"}}, "'nix' is declared, but there is no such check"),
        ({"declared": {"add": ""}}, "'add' is declared without a reason"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conformance.run(NUMPY, **options)


def test_what_is_no_backend_is_refused() -> None:
    with pytest.raises(TypeError, match="lacks name, xp"):
        conformance.run(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no backend named 'nope'"):
        conformance.run("nope")


# --- checks -----------------------------------------------------------------------------------------------------------


def check_of(name: str) -> Callable[..., conformance.Outcome]:
    return {check.__name__: check for check in conformance.CHECKS}[f"check_{name}"]


def test_there_is_one_plain_function_for_every_claim() -> None:
    assert [check.__name__ for check in conformance.CHECKS] == [f"check_{name}" for name in CLAIMS]
    for check, claim in zip(conformance.CHECKS, CLAIMS.values(), strict=True):
        names = list(inspect.signature(check).parameters)
        assert names == ["backend", *(["precision"] if claim.kind != "contract" else []), "seed", "examples"]
        assert inspect.getdoc(check)
        assert check(NUMPY, examples=1).check == claim.name


def test_every_op_has_its_check() -> None:
    """And linear layers a second one, for weights that the first does not come to."""
    assert [name for name, claim in CLAIMS.items() if claim.kind == "op"] == [*SUBJECTS, "storage"]


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_the_same_seed_gives_the_same_examples(name: str) -> None:
    claim = CLAIMS[name]
    first = example(claim, precision="bf16", seed=3, number=1)
    again = claim.draw(np.random.default_rng(_words(3, 1, name, "bf16")), 1, "bf16")
    other = example(claim, precision="bf16", seed=4, number=1)
    assert all(equal_bits(first.inputs[key], again.inputs[key]).wrong is None for key in first.inputs)
    assert first.options == again.options
    assert any(equal_bits(first.inputs[key], other.inputs[key]).wrong is not None for key in first.inputs)


def _words(seed: int, number: int, name: str, precision: str) -> list[int]:
    import zlib

    return [seed, number, zlib.crc32(name.encode()), zlib.crc32(precision.encode())]


@pytest.mark.parametrize("op", SUBJECTS)
def test_examples_are_of_every_kind_layout_and_result(op: str) -> None:
    cases = [example(CLAIMS[op], precision="reference", seed=0, number=n) for n in range(conformance.EXAMPLES)]
    assert len({case.data for case in cases}) >= 3
    assert {case.layout for case in cases} == set(LAYOUTS)
    results = np.concatenate([specified(case).ravel() for case in cases])
    assert np.isfinite(results).any()
    assert np.isnan(results).any() or op in ("add",)
    assert not any(array.flags.writeable for case in cases for array in case.inputs.values())


def test_linear_examples_are_of_many_storage_formats() -> None:
    cases = [example(CLAIMS["linear"], precision="reference", seed=0, number=n) for n in range(conformance.EXAMPLES)]
    assert {case.options["storage"] for case in cases} >= {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"}
    assert {case.options["kept"] for case in cases} == {True, False}
    assert {"b" in case.inputs for case in cases} == {True, False}


def test_attention_examples_have_caps_sinks_rows_that_see_nothing_and_fewer_queries_than_keys() -> None:
    cases = [example(CLAIMS["attention"], precision="reference", seed=0, number=n) for n in range(32)]
    assert {(case.options["cap"] is None, "sinks" in case.inputs) for case in cases} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert any(not case.inputs["mask"].any(axis=-1).all() for case in cases)
    assert any(np.isnan(case.inputs["k"]).any() for case in cases)
    assert all(case.inputs["q"].shape[1] < case.inputs["k"].shape[1] for case in cases)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_number(layout: str) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    there = laid_out(array, layout, NUMPY)
    assert np.array_equal(there, array)
    assert there.flags.c_contiguous == (layout == "plain")


def test_a_changed_input_is_seen() -> None:
    case = example(CLAIMS["add"], precision="reference", seed=0, number=0)
    given_ = Given(case, NUMPY)
    x = given_("x")
    assert given_.changed() is None
    x[...] = 7
    assert given_.changed() == "x"


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_bits_tell_zeros_signs_nans_shapes_and_dtypes_apart() -> None:
    one = np.array([1.0, 0.0, np.nan], dtype=np.float32)
    assert equal_bits(one, one.copy()).wrong is None
    assert equal_bits(one, one.copy()).elements == 3
    assert "element [1] is -0.0 (0x80000000), must be 0.0 (0x00000000); 1 of 3 differ" in str(
        equal_bits(np.array([1.0, -0.0, np.nan], dtype=np.float32), one).wrong
    )
    assert equal_bits(np.copysign(one, [1, 1, -1]).astype(np.float32), one).wrong is not None
    assert equal_bits(np.copysign(one, [1, 1, -1]).astype(np.float32), one, any_nan=True).wrong is None
    assert "float64 (3,) where float32 (3,) must be" in str(equal_bits(one.astype(np.float64), one).wrong)
    assert equal_bits(one[:, None], one).wrong is not None


def test_a_bound_is_kept_to_the_last_bit() -> None:
    values = np.array([Real.rational(1), np.nan, np.inf, Real.rational(5)], dtype=object)
    bound = np.array([2.0**-20, 0.0, 0.0, np.inf])
    got = np.array([1 + 2.0**-20, np.nan, np.inf, 7.0])
    assert within_bound(got, values, bound).wrong is None
    assert within_bound(got, values, bound).elements == 3, "an infinite bound says nothing"
    for at, wrong in ((0, 1 + 2.0**-20 + 2.0**-52), (0, np.inf), (1, 0.0), (2, -np.inf), (2, 1e300)):
        changed = got.copy()
        changed[at] = wrong
        assert f"element [{at}]" in str(within_bound(changed, values, bound).wrong)


def test_exact_values_and_their_rounding_agree() -> None:
    case = example(CLAIMS["add"], precision="bf16", seed=0, number=0)
    want = [value.round("bf16") if isinstance(value, Real) else value for value in exact_values(case).ravel()]
    assert np.array_equal(specified(case).ravel(), np.array(want, dtype=np.float32), equal_nan=True)


# --- strategies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", SUBJECTS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_examples_of_hypothesis_are_the_specifications_too(op: str, data: st.DataObject) -> None:
    precision = data.draw(st.sampled_from(["reference", "bf16"]))
    case = data.draw(strategies.cases(op, precision=precision))
    assert conformance.judge_op(case, NUMPY).wrong is None


def test_hypothesis_finds_and_shrinks_a_wrong_backend() -> None:
    from hypothesis import Phase, find

    backend = WRONG["the gate is rounded before the product"].make()
    quick = settings(
        max_examples=300, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    found = find(
        strategies.cases("gated"), lambda case: conformance.judge_op(case, backend).wrong is not None, settings=quick
    )
    assert found.op == "gated"


def test_a_strategy_for_no_op_is_refused() -> None:
    with pytest.raises(ValueError, match="no op named 'lineal'; known: embed, linear"):
        strategies.cases("lineal")


@given(strategies.arrays((5,), precision="bf16", special=False))
def test_moderate_numbers_are_bf16_and_moderate(array: Any) -> None:
    assert array.dtype == np.float32
    assert (np.abs(array) <= 16).all()
    assert not (array.view(np.uint32) & 0xFFFF).any()


def test_the_contract_lists_every_name() -> None:
    """A namespace that lacks any one name is refused before anything runs."""
    for name in XP_NAMES:
        backend = wrong_backends.with_xp()
        delattr(backend.xp, name)
        with pytest.raises(TypeError, match=name):
            conformance.run(backend)


def test_precisions_are_those_there_are() -> None:
    assert set(ROUNDED_ONCE) < set(PRECISIONS)
