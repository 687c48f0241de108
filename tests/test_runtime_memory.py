"""What stays decoded, how much memory there is, and that neither changes a bit of what a model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest

import lepton_ref
from lepton_ref import registry
from lepton_ref.runtime import memory
from lepton_ref.runtime.memory import SHARE, available_bytes, keep
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, Weight
from lepton_ref.storage.base import Panel
from lepton_ref.storage.kept import Kept

CHOICES: tuple[Any, ...] = (True, False, "auto")
NUMPY = registry.get("numpy")


def system(
    root: Path, *, free: int | str | None = None, most: str | None = None, used: int = 0, cached: int | None = None
) -> Path:
    """A root folder with the files that say how much memory there is; sizes in bytes."""
    if free is not None:
        (root / "proc").mkdir(parents=True)
        kib = free // 1024 if isinstance(free, int) else free
        text = f"MemTotal:  99999999 kB\nMemAvailable:  {kib} kB\nBuffers: 5 kB\n"
        (root / "proc/meminfo").write_text(text, encoding="ascii")
    group = root / "sys/fs/cgroup"
    if most is not None:
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{most}\n", encoding="ascii")
        (group / "memory.current").write_text(f"{used}\n", encoding="ascii")
    if cached is not None:
        (group / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\nactive_file 9\n", encoding="ascii")
    return root


# --- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_tied", "llama_sharded", "bert_masked_lm", "distilbert"])
@pytest.mark.parametrize("precision", ["reference", "float64"])
def test_what_is_kept_changes_no_bit(name: str, precision: str) -> None:
    case = golden_cases.case(name)
    found = []
    for choice in CHOICES:
        model = lepton_ref.load(case.folder, precision=precision, keep_decoded=choice)
        found += [model.forward(case.expected["input_ids"]) for _ in range(2)]  # before and after it is decoded
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_kept_weight_that_differs_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden_cases.case("llama_tied")
    honest = Kept.panels

    def panels(self: Kept, *, backend: Any) -> Any:
        for panel in honest(self, backend=backend):
            yield Panel(panel.start, panel.stop, panel.rows * (1 + 2**-20), backend)

    monkeypatch.setattr(Kept, "panels", panels)
    found = [lepton_ref.load(case.folder, keep_decoded=choice).forward([[3, 4]]) for choice in (True, False)]
    assert not np.array_equal(*found)


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda each: each.name)
def test_a_kept_block_format_holds_what_it_decodes_to(format: Any) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (7, 2 * format.nbytes), dtype=np.uint8)
    weight = BlockQuantised(blocks, format=format)
    (kept,) = keep({"w": weight}, True, backend=NUMPY).values()
    (panel,) = kept.panels(backend=NUMPY)
    assert (panel.start, panel.stop, panel.rows.dtype) == (0, 7, np.float64)
    np.testing.assert_array_equal(panel.rows, weight.decode().astype(np.float64))


def test_only_matrices_that_are_multiplied_by_are_kept() -> None:
    case = golden_cases.case("llama")
    weights = lepton_ref.load(case.folder, keep_decoded=True).parts.weights
    kept = {name for name, weight in weights.items() if isinstance(weight, Kept)}
    assert kept == {name for name, weight in weights.items() if len(weight.shape) == 2} - {"embed.weight"}
    tied = lepton_ref.load(golden_cases.case("llama_tied").folder, keep_decoded=True).parts.weights
    assert isinstance(tied["embed.weight"], Kept)
    none = lepton_ref.load(case.folder, keep_decoded=False).parts.weights
    assert not any(isinstance(weight, Kept) for weight in none.values())


class Counted(Dense):
    """A weight that counts how often it is decoded."""

    decoded = 0

    def take(self, index: Any, /) -> Any:
        self.decoded += len(index)
        return super().take(index)


@pytest.mark.parametrize(("choice", "times"), [(True, 1), (False, 3)])
def test_kept_is_decoded_once(choice: bool, times: int) -> None:
    weight = Counted(np.ones((5, 3), dtype=np.float32), format="F32")
    (held,) = keep({"w": weight}, choice, backend=NUMPY).values()
    assert weight.decoded == 0, "nothing is decoded before it is used"
    for _ in range(3):
        for _ in held.panels(backend=NUMPY):
            pass
    assert weight.decoded == 5 * times


# --- auto ------------------------------------------------------------------------------------------------------------


def needed(weights: dict[str, Weight]) -> int:
    return 8 * sum(int(np.prod(weight.shape)) for weight in weights.values())


@pytest.mark.parametrize(("spare", "kept"), [(0, True), (-1, False), (None, False)])
def test_auto_keeps_where_all_of_it_fits_in_its_share(
    spare: int | None, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, Weight] = {
        name: Dense(np.ones((4, n), dtype=np.float32), format="F32") for name, n in (("a", 3), ("b", 5))
    }
    available = None if spare is None else int(needed(weights) / SHARE) + spare
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    found = keep(weights, "auto", backend=NUMPY)
    assert [isinstance(weight, Kept) for weight in found.values()] == [kept, kept]
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("choice", ["yes", "", "True", None, 1, 0, 0.5, np.True_, ["auto"], "AUTO"])
def test_other_choices_are_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match="keep_decoded must be 'auto', True or False, got"):
        keep({}, choice, backend=NUMPY)
    with pytest.raises(ValueError, match="keep_decoded must be"):
        lepton_ref.load(golden_cases.case("llama").folder, keep_decoded=choice)


def test_nothing_to_keep() -> None:
    for choice in CHOICES:
        assert keep({}, choice, backend=NUMPY) == {}


def test_a_kept_weight_stays_on_its_backend() -> None:
    weight = Dense(np.ones((5, 3), dtype=np.float32), format="F32")
    (kept,) = keep({"w": weight}, True, backend=NUMPY).values()
    other = type(NUMPY)()
    with pytest.raises(ValueError, match="this weight is kept on backend 'numpy'"):
        next(iter(kept.panels(backend=other)))


# --- how much there is -----------------------------------------------------------------------------------------------

GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"free": 5 * GIB}, 5 * GIB),
        ({"free": 5 * GIB, "most": "max"}, 5 * GIB),
        ({"free": 5 * GIB, "most": str(2 * GIB), "used": GIB}, GIB),
        ({"free": 5 * GIB, "most": str(2 * GIB), "used": 2 * GIB}, 0),  # none left is not "no limit"
        ({"free": 5 * GIB, "most": str(2 * GIB), "used": 3 * GIB}, 0),
        ({"free": 5 * GIB, "most": str(2 * GIB), "used": 2 * GIB, "cached": GIB // 2}, GIB // 2),
        ({"free": GIB, "most": str(9 * GIB), "used": GIB}, GIB),
    ],
)
def test_memory_is_what_the_system_and_the_container_leave(files: dict[str, Any], want: int, tmp_path: Path) -> None:
    assert available_bytes(system(tmp_path, **files)) == want


@pytest.mark.parametrize("free", [None, "plenty", ""])
def test_without_a_readable_meminfo_pages_are_counted(free: str | None, tmp_path: Path) -> None:
    found = available_bytes(system(tmp_path, free=free))
    assert found is None or found > 0


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    assert available_bytes(system(tmp_path)) is None
