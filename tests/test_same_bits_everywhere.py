"""Logits have the same bits whatever kernels BLAS chooses, however many threads, and whatever vectors NumPy may use."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import bits
import golden_cases
import pytest
import real_models
import threadpoolctl

CASES = ("llama", "gemma2", "gpt2_hub", "bert")
SMOLLM2 = ("reference", "bf16", "w8a8")

KERNELS = {
    "chosen by OpenBLAS": None,
    "with AVX2": "Haswell",
    "without FMA": "Sandybridge",
    "without AVX": "Nehalem",
}
"""What a set of OpenBLAS's kernels is called there; every x86 processor since 2013 can run these."""

FEATURES = {"without AVX-512": ("AVX512", "X86_V4"), "without what is optional": ("",)}
"""How the names of the features begin that NumPy is told not to use. They are not the same in every NumPy."""

Variant = Callable[[Path, bits.Report], bits.Report]


def with_kernels(name: str | None) -> Variant:
    """Run with these kernels, and see that BLAS took them."""

    def run(jobs: Path, plain: bits.Report) -> bits.Report:
        report = bits.report(jobs, environment={"OPENBLAS_CORETYPE": name, "OPENBLAS_L2_SIZE": None})
        assert name is None or {blas.split()[0] for blas in report["where"]["blas"]} == {name}
        return report

    return run


def with_threads(count: int) -> Variant:
    """Run with so many threads, and see that BLAS took them."""

    def run(jobs: Path, plain: bits.Report) -> bits.Report:
        report = bits.report(jobs, environment={"OPENBLAS_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)})
        assert {blas.split()[1] for blas in report["where"]["blas"]} == {f"x{count}"}
        return report

    return run


def without_features(starts: tuple[str, ...]) -> Variant:
    """Run with these features of the processor off, and see that they were."""

    def run(jobs: Path, plain: bits.Report) -> bits.Report:
        off = [name for name in plain["where"]["optional"] if name.startswith(starts)]
        if not off:
            pytest.skip(f"NumPy uses nothing here that begins with {starts}, only {plain['where']['features']}")
        report = bits.report(jobs, environment={"NPY_DISABLE_CPU_FEATURES": " ".join(off)})
        assert set(report["where"]["features"]) == set(plain["where"]["features"]) - set(off)
        return report

    return run


openblas_on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or "openblas" not in {pool["internal_api"] for pool in threadpoolctl.threadpool_info()},
    reason="these names of kernels are OpenBLAS's for x86",
)
VARIANTS = [
    *[pytest.param(with_kernels(name), marks=openblas_on_x86, id=label) for label, name in KERNELS.items()],
    *[pytest.param(with_threads(count), id=f"threads {count}") for count in (1, 2)],
    *[pytest.param(without_features(starts), id=label) for label, starts in FEATURES.items()],
]


def job_fixture(name: str, make: Callable[[Path], list[bits.Job]]) -> object:
    """A fixture: jobs.json, and what this machine makes of it with nothing changed."""

    @pytest.fixture(scope="module", name=name)
    def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bits.Report]:
        folder = tmp_path_factory.mktemp(name)
        jobs = bits.write_jobs(folder / "jobs.json", make(folder))
        return jobs, bits.report(jobs)

    return made


_small = job_fixture("small", lambda folder: [*bits.tiny(*CASES), bits.medium(folder), bits.cancelling(folder)])
_machines = job_fixture("machines", lambda folder: bits.tiny(*CASES, precisions=bits.MACHINES))
_families = job_fixture("families", lambda folder: bits.tiny(*golden_cases.names()))
_smollm2 = job_fixture(
    "smollm2", lambda folder: [bits.smollm2(str(real_models.smollm2()), texts="both", precisions=SMOLLM2)]
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_bit_changes(small: tuple[Path, bits.Report], variant: Variant) -> None:
    bits.assert_same_bits(variant(*small), small[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_bit_of_a_machine_model_changes(machines: tuple[Path, bits.Report], variant: Variant) -> None:
    bits.assert_same_bits(variant(*machines), machines[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_bit_of_any_family_changes(families: tuple[Path, bits.Report], variant: Variant) -> None:
    bits.assert_same_bits(variant(*families), families[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_bit_of_a_real_model_changes(smollm2: tuple[Path, bits.Report], variant: Variant) -> None:
    bits.assert_same_bits(variant(*smollm2), smollm2[1])


@openblas_on_x86
def test_what_is_not_proven_is_seen_to_change(small: tuple[Path, bits.Report], tmp_path: Path) -> None:
    """The float64 precision of the model whose large terms cancel: the tests above would find a proof skipped."""
    jobs = bits.write_jobs(tmp_path / "jobs.json", [{**bits.cancelling(tmp_path), "precisions": []}])
    one, other = (with_kernels(name)(jobs, small[1])["control"] for name in ("Haswell", "Nehalem"))
    assert {"float32 matmul", "float64 matmul", "cancelling float64"} <= set(bits.differences(one, other))


@pytest.mark.parametrize("name", ["llama reference", "gemma2 reference"])
def test_one_hash_that_differs_or_is_missing_is_found(name: str) -> None:
    want = {"llama reference": "a1", "gemma2 reference": "b2"}
    assert bits.differences(want, dict(want)) == []
    assert bits.differences({**want, name: "c3"}, want) == [name]
    assert bits.differences({key: value for key, value in want.items() if key != name}, want) == [name]
    with pytest.raises(ValueError, match="nothing to compare: 0 hashes against 2"):
        bits.differences({}, want)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_reports_that_differ_or_say_nothing_of_a_precision_are_refused(precision: str | None) -> None:
    want: bits.Report = {"where": {}, "hashes": {"llama bf16": "a1", "llama reference": "b2"}, "control": {}}
    bits.assert_same_bits(want, want, precision=precision)
    with pytest.raises(AssertionError, match="differ on"):
        bits.assert_same_bits({**want, "hashes": {**want["hashes"], "llama bf16": "c3"}}, want, precision=precision)
    with pytest.raises(ValueError, match="nothing to compare"):
        bits.assert_same_bits(want, want, precision="fp8")
