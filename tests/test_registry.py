"""Backends are found through entry points; each test plants distributions of its own on the path."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lepton_ref import registry
from lepton_ref.interface import XP_NAMES

MODULE = """
import numpy as np
{first}
class Planted:
    name = "{name}"
    xp = np
    ulps = 4.0
    kernels = {{}}
    def from_numpy(self, array, /): return array
    def to_numpy(self, array, /): return array
    def matmul(self, a, b, /, *, accumulate): return a @ b
    def sum(self, a, /, *, axis, keepdims, accumulate): return a.sum(axis=axis, keepdims=keepdims)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(distribution, name=, module=, first=)`: a third party's backend, as pip would leave it."""

    def plant(distribution: str, *, name: str, module: str, first: str = "") -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {module}:Planted\n")
        (site / f"{module}.py").write_text(MODULE.format(name=name, first=first))
        monkeypatch.syspath_prepend(site)

    return plant


def test_ours_is_found_as_a_third_partys_is() -> None:
    assert "numpy" in registry.names()
    backend = registry.get("numpy")
    assert backend.name == "numpy"
    assert type(backend).__module__ == "lepton_ref.backends.numpy_backend"


def test_a_third_partys_backend_is_found(install: Install) -> None:
    install("planted_one", name="planted", module="planted_one_backend")
    assert registry.names() == tuple(sorted(registry.names()))
    assert {"numpy", "planted"} <= set(registry.names())
    backend = registry.get("planted")
    assert type(backend).__module__ == "planted_one_backend"
    two = np.eye(2)
    assert np.array_equal(backend.matmul(two, two, accumulate="float64"), two)


def test_a_missing_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no backend named 'nunpy'; installed: .*numpy"):
        registry.get("nunpy")


def test_two_distributions_that_claim_one_name_are_both_named(install: Install) -> None:
    install("planted_two", name="numpy", module="planted_two_backend")
    assert registry.names().count("numpy") == 1
    both = r"lepton_ref\.backends\.numpy_backend:NumpyBackend, planted_two_backend:Planted; uninstall all but one"
    with pytest.raises(ValueError, match=both):
        registry.get("numpy")


def test_one_backend_seen_twice_is_no_conflict(install: Install) -> None:
    install("planted_three", name="twice", module="planted_three_backend")
    install("planted_four", name="twice", module="planted_three_backend")
    assert len(entry_points(group=registry.GROUP, name="twice")) == 2
    assert registry.get("twice").name == "twice"


def test_a_backend_whose_library_is_missing_says_so(install: Install) -> None:
    install("planted_five", name="needy", module="planted_five_backend", first="import no_such_library")
    assert "needy" in registry.names()
    with pytest.raises(ImportError, match="no_such_library"):
        registry.get("needy")


def test_an_object_is_returned_itself() -> None:
    backend = registry.get("numpy")
    assert registry.get(backend) is backend


def test_an_object_that_lacks_members_is_refused_by_their_names() -> None:
    half = SimpleNamespace(name="half", xp=np, kernels={}, from_numpy=np.asarray, to_numpy=np.asarray)
    with pytest.raises(TypeError, match="lacks ulps, matmul, sum"):
        registry.get(half)


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    with pytest.raises(TypeError, match=r"is a class; pass an instance: NumpyBackend\(\)"):
        registry.get(type(registry.get("numpy")))


@pytest.mark.parametrize("missing", XP_NAMES)
def test_a_namespace_that_lacks_a_name_is_refused(missing: str) -> None:
    whole = registry.get("numpy")
    members = {name: getattr(whole, name) for name in ("ulps", "kernels", "from_numpy", "to_numpy", "matmul", "sum")}
    xp = SimpleNamespace(**{name: getattr(np, name) for name in XP_NAMES if name != missing})
    with pytest.raises(TypeError, match=f"xp lacks {missing}$"):
        registry.get(SimpleNamespace(name="thin", xp=xp, **members))
