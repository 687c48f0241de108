"""Packing piece by piece, and packed matrices that a file keeps: the bytes of packing at once."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated
from wide_model import wide_gguf

import lepton_ref
from lepton_ref.backends import numba_chunks, numba_store
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_chunks import Layout, layout_of, pack_in_memory, pieces
from lepton_ref.backends.numba_panels import KINDS, Panels, pack
from lepton_ref.backends.numba_panels_dense import pack_dense
from lepton_ref.backends.numba_panels_read import decode_row
from lepton_ref.backends.numba_panels_real import pack_real
from lepton_ref.backends.numba_store import key_of, pack_all, stored_panels
from lepton_ref.files import packed_write
from lepton_ref.files.packed_file import read_packed
from lepton_ref.files.packed_write import writing_packed
from lepton_ref.runtime import packing
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.byte_codes import pack as pack_codes
from lepton_ref.storage.encoded import as_operand
from lepton_ref.storage.scales import Scales
from lepton_ref.storage.views import RowView

BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
DENSE = ("F32", "BF16", "F16")


def blocks(format: str, outputs: int, width: int, seed: int = 0) -> BlockQuantised:
    """Random bytes, whose scales are finite."""
    form = FORMATS[format]
    count = width // form.length
    raw = np.random.default_rng(seed).integers(0, 256, (outputs, count, form.nbytes), dtype=np.uint8)
    for start in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(format, (0, 2) if "_1" in format else (0,)):
        raw[:, :, start + 1] &= 0x3B
    return BlockQuantised(raw.reshape(outputs, -1), format=form)


def dense(format: str, outputs: int, width: int, seed: int = 0) -> Dense:
    x = np.random.default_rng(seed).standard_normal((outputs, width)).astype(np.float32)
    stored = {"F32": x, "F16": x.astype("<f2"), "BF16": (x.view(np.uint32) >> 16).astype("<u2")}[format]
    return Dense(stored, format=format)


def integers(bits: int, outputs: int, width: int) -> Affine:
    """Groups of 32 with zero points."""
    draw = np.random.default_rng(bits)
    low, high = -(1 << bits - 1), 1 << bits - 1
    codes, zeros = draw.integers(low, high, (outputs, width)), draw.integers(low, high, (outputs, width // 32))
    scales = Scales(draw.random((outputs, width // 32)).astype(np.float32), "F32")
    return Affine(
        pack_codes(codes.astype(np.int8).view(np.uint8) & np.uint8((1 << bits) - 1), bits),
        scales,
        zeros.astype(np.int8),
        bits=bits,
        columns=width,
        tile=(1, 32),
    )


def any_weight(format: str, outputs: int, width: int = 256) -> Weight:
    if format in DENSE:
        return dense(format, outputs, width)
    return integers(int(format[3:]), outputs, width) if format.startswith("INT") else blocks(format, outputs, width)


def pack_as(weight: Weight, operands: str) -> Panels | None:
    return pack(weight, operands) if operands in ("w8a8", "w4a8") else pack_real(weight)


def same(a: Panels | None, b: Panels | None) -> None:
    """All but what lies between parts, which is nothing."""
    assert a is not None
    assert b is not None
    assert (a.kind, a.outputs, a.width, a.at.tolist()) == (b.kind, b.outputs, b.width, b.at.tolist())
    assert a.data.size == b.data.size
    layout = Layout(a.kind, a.outputs, a.width, int(a.at[5]))
    for number, (at, size) in enumerate(zip(a.at.tolist(), layout.sizes, strict=False)):
        end = at + size * layout.panels
        assert np.array_equal(a.data[at:end], b.data[at:end]), f"part {number}"


def test_every_kind_lies_as_is_known() -> None:
    seen = set()
    for name in (*BLOCKS, *DENSE, "INT4", "INT8"):
        for width in (256, 768):
            panels = pack_dense(any_weight(name, 37, width)) if name in DENSE else pack(any_weight(name, 37, width))
            assert panels is not None
            seen.add(panels.kind)
            layout = layout_of(panels, 37)
            assert layout is not None, name
            assert layout.at.tolist() == panels.at.tolist()
            assert layout.nbytes == panels.data.size
    assert seen >= set(KINDS.values()) | set(numba_chunks.DENSE)


@pytest.mark.parametrize("format", [*BLOCKS, *DENSE, "INT4", "INT8"])
def test_panels_hold_what_is_multiplied(format: str) -> None:
    """Where two of the four sizes were left out the lengths once lay over the first codes."""
    weight = any_weight(format, 37, 256)
    panels, row = pack(weight), np.empty(256)
    assert panels is not None
    right = as_operand(weight, "w8a8").operand(np.arange(37))
    for number in range(37):
        decode_row(panels.kind, panels.data, 0, panels.at, number, 256, row)
        assert np.array_equal(row, right[number])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 rows."""
    monkeypatch.setattr(numba_chunks, "PIECE", 1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("operands", ["stored", "w8a8", "w4a8"])
@pytest.mark.parametrize("format", [*BLOCKS, *DENSE])
def test_pieces_make_the_whole(format: str, operands: str) -> None:
    for outputs in (1, 63, 64, 65, 200, 128 + 33):
        weight = any_weight(format, outputs)
        assert len([*pieces(weight)]) == -(-outputs // 64)
        same(pack_in_memory(weight, lambda piece: pack_as(piece, operands)), pack_as(weight, operands))


@pytest.mark.usefixtures("small")
@settings(max_examples=20)
@given(st.sampled_from(BLOCKS + DENSE), st.data())
def test_rows_that_are_chosen_are_cut_too(format: str, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, 89), min_size=1, max_size=200))
    weight = RowView(any_weight(format, 90), np.array(index))
    for given_weight in (weight, as_operand(weight, "w8a8")):
        same(pack_in_memory(given_weight, lambda piece: pack_as(piece, "w8a8")), pack(given_weight))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("format", ["INT4", "INT8"])
def test_what_cannot_be_cut_is_packed_at_once(format: str) -> None:
    weight = any_weight(format, 200)
    assert [*pieces(weight)] == [weight]
    same(pack_in_memory(weight, pack), pack(weight))


@pytest.mark.usefixtures("small")
def test_a_piece_that_is_packed_otherwise_makes_all_be_packed_at_once() -> None:
    """As where elements of the second piece alone are rounded on the way to float32."""
    weight = blocks("Q4_1", 200, 64)
    raw = weight.raw.copy()
    raw.reshape(200, 2, 20)[100, 0, :4] = (1, 0x3C, 1, 0x10)  # a scale of 1 + 2⁻¹⁰ and a minimum of about 2⁻¹¹
    raw.reshape(200, 2, 20)[:100, :, :4] = 0
    mixed = BlockQuantised(raw, format=FORMATS["Q4_1"])
    kinds = {pack_real(piece).kind for piece in pieces(mixed)}  # type: ignore[union-attr]
    assert len(kinds) == 2
    same(pack_in_memory(mixed, pack_real), pack_real(mixed))


@pytest.mark.usefixtures("small")
def test_pieces_put_on_one_another_would_be_seen() -> None:
    wrong = mutated(numba_chunks, "        panel += panels.panels\n", "")
    wrong.PIECE = 1
    weight = blocks("Q8_0", 200, 64)
    with pytest.raises(AssertionError, match="part 0"):
        same(wrong.pack_in_memory(weight, pack), pack(weight))


def test_lengths_of_another_size_would_be_seen() -> None:
    """They were read beyond their end once, when each panel had got two vectors of them."""
    wrong = mutated(numba_chunks, "(4 if self.kind >= F32 else 8)", "4")
    panels = pack(blocks("Q8_0", 200, 64))
    assert panels is not None
    assert wrong.layout_of(panels, 200) is None


# --- files ------------------------------------------------------------------------------------------------------------


class Place:
    """Files of one folder by key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.opened, self.made = folder, 0, 0

    def open(self, key: str) -> Any:
        path = self.folder / key
        if not path.exists():
            return None
        self.opened += 1
        return read_packed(path)

    def writing(self, key: str) -> Any:
        self.made += 1
        return writing_packed(self.folder / key)

    def written(self, key: str) -> Any:
        return read_packed(self.folder / key)


def model() -> dict[tuple[str, str], Weight]:
    """One matrix of each format, one that has no panels, and one under two kinds of operands."""
    weights: dict[tuple[str, str], Weight] = {
        (name, "w8a8"): any_weight(name, 130) for name in (*BLOCKS, *DENSE, "INT8")
    }
    none = Dense(np.zeros((3, 4)), format="F64")
    return {**weights, ("none", "stored"): none, ("F32", "stored"): dense("F32", 130, 256)}


@pytest.mark.usefixtures("small")
def test_a_file_gives_what_memory_gives(tmp_path: Path) -> None:
    place, weights = Place(tmp_path), model()
    memory = pack_all(weights, pack_as)
    for _ in range(2):
        stored = stored_panels(weights, pack_as, place)
        assert stored.keys() == memory.keys()
        for wanted, panels in memory.items():
            if panels is None:
                assert stored[wanted] is None
            else:
                same(stored[wanted], panels)
                assert stored[wanted].data.ctypes.data % 64 == 0  # type: ignore[union-attr]
                assert not stored[wanted].data.flags.writeable  # type: ignore[union-attr]
    assert (place.made, place.opened) == (1, 1)


def test_a_file_whose_panels_stay_alive_stays_open(tmp_path: Path) -> None:
    weights = {("a", "w8a8"): any_weight("Q8_0", 130)}
    panels = stored_panels(weights, pack_as, Place(tmp_path))[("a", "w8a8")]
    for path in tmp_path.iterdir():
        path.unlink()
    same(panels, pack(weights["a", "w8a8"]))


def test_the_key_tells_layouts_operands_formats_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> Iterator[str]:
        yield key_of({("a", "w8a8"): blocks("Q8_0", 16, 64)})
        yield key_of({("a", "w4a8"): blocks("Q8_0", 16, 64)})
        yield key_of({("b", "w8a8"): blocks("Q8_0", 16, 64)})
        yield key_of({("a", "w8a8"): blocks("Q4_0", 16, 64)})
        yield key_of({("a", "w8a8"): blocks("Q8_0", 16, 96)})
        yield key_of({})
        monkeypatch.setattr(numba_store, "LAYOUT", numba_store.LAYOUT + 1)
        yield key_of({})

    found = [*keys()]
    assert len(set(found)) == len(found)


def test_a_kind_of_no_known_layout_is_packed_in_memory(tmp_path: Path) -> None:
    def strange(weight: Weight, operands: str) -> Panels:
        panels = pack(weight)
        assert panels is not None
        return Panels(77, panels.outputs, panels.width, panels.data, panels.at)

    weights, place = {("a", "w8a8"): any_weight("Q8_0", 130)}, Place(tmp_path)
    for _ in range(2):
        found = stored_panels(weights, strange, place)[("a", "w8a8")]
        assert found is not None
        assert found.kind == 77
        assert np.array_equal(found.data, strange(weights["a", "w8a8"], "").data)


ABOUT = {"kind": 0, "outputs": 130, "width": 256, "shared": 1}


@pytest.mark.parametrize(
    ("about", "nbytes", "said"),
    [
        ({**ABOUT, "outputs": 131}, 0, r"is said to be .*, not \(130, 256\); remove the file"),
        ({**ABOUT, "width": 32}, 0, "is said to be"),
        ({**ABOUT, "kind": "0"}, 0, "is said to be"),
        ({**ABOUT, "shared": -1}, 0, "is said to be"),
        ({"kind": 0}, 0, "is said to be"),
        ({**ABOUT, "kind": 99}, 64, "panels of kind 99 have no known layout"),
        (ABOUT, 64, "has 64 bytes, not 40320; remove the file"),
        (ABOUT, 40320 + 64, "has 40384 bytes, not 40320; remove the file"),
    ],
)
def test_an_entry_that_lies_is_refused_in_one_line(tmp_path: Path, about: Any, nbytes: int, said: str) -> None:
    weights, place = {("a", "w8a8"): any_weight("Q8_0", 130)}, Place(tmp_path)
    with writing_packed(tmp_path / key_of(weights)) as writer:
        writer.add("w8a8/a", nbytes, about)
    with pytest.raises(ValueError, match=said) as caught:
        stored_panels(weights, pack_as, place)
    assert "\n" not in str(caught.value)


def test_the_numba_backend_packs() -> None:
    place = packing.PackPlace.of("beside", Path(__file__), backend=NumbaBackend())
    assert place.folder == Path(__file__).parent


KILLED = """
import os, signal, sys
import lepton_ref
from lepton_ref.files import packed_write

path, folder, owner, name, calls = sys.argv[1:]
held = {"os": os, "packed_write": packed_write, "PackedWriter": packed_write.PackedWriter}[owner]
real, left = getattr(held, name), int(calls)

def dies(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(held, name, dies)
lepton_ref.load(path, backend="numba", pack=folder).forward([[1, 2, 3]])
"""
POINTS = [
    ("PackedWriter", "write", 9),
    ("PackedWriter", "finish", 1),
    ("os", "replace", 1),
    ("packed_write", "sync_folder", 1),
]
"""What a process is about to call, for the n-th time, when it is killed: matrices are written, then the index, then it
gets its name, then the disk is told."""


@pytest.mark.skipif(not packed_write.LOCKS, reason="the system has no locks of this kind")
def test_who_is_killed_while_it_packs_leaves_nothing_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = wide_gguf(tmp_path / "model.gguf", 2), tmp_path / "packs"
    folder.mkdir()
    right = lepton_ref.load(path).forward([[1, 2, 3]])

    def same_bits() -> None:
        found = lepton_ref.load(path, backend="numba", pack=folder).forward([[1, 2, 3]])
        assert np.array_equal(found.view(np.uint32), right.view(np.uint32))
        assert [one.suffix for one in folder.iterdir()] == [packing.SUFFIX]

    for owner, name, calls in POINTS:
        argv = [sys.executable, "-c", KILLED, str(path), str(folder), owner, name, str(calls)]
        assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
        (left,) = folder.iterdir()  # one part, of the last that was killed
        assert left.suffix == (packing.SUFFIX if name == "sync_folder" else ".part")
    monkeypatch.setattr(packing.PackPlace, "writing", lambda self, key: pytest.fail("what had its name is whole"))
    same_bits()
    monkeypatch.undo()
    left.rename(left.with_name(f".{left.name}.0123.part"))
    same_bits()  # packed again, and what lay there is gone


CODES = "5d4f0ba50cf1e2a2783f474e276700f1b6f57dbff12d0c0359ffda3e2e32bc70"
"""SHA-256 of codes, scales and high bits of every format."""


def test_bytes_that_changed_need_another_version() -> None:
    seen = hashlib.sha256()
    for name in (*BLOCKS, *DENSE, "INT4", "INT8"):
        panels = pack_as(any_weight(name, 37), "stored" if name in DENSE else "w8a8")
        assert panels is not None
        layout = layout_of(panels, 37)
        assert layout is not None
        seen.update(name.encode())
        for at, size in zip(layout.at[:4].tolist(), layout.sizes, strict=False):
            seen.update(panels.data[at : at + size * layout.panels].tobytes())
    assert (numba_store.LAYOUT, seen.hexdigest()) == (2, CODES)
