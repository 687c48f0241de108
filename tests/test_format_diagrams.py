"""What a bit of a diagram does: flipping it changes the elements that it is given to, and no others; planted mistakes."""

# ruff: noqa: E501 - one planted bug a line

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from block_cases import all_flipped, bits, moderate, random_blocks
from diagram_reader import Items, expanded, of_text, text_planes
from format_page_cases import (
    as_text,
    block_planes,
    check_diagram,
    diagram,
    drawing_planes,
    drawn,
    each_block,
    each_matrix,
    layout_of,
    page_planes,
    pages,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.storage import FORMATS, BlockFormat, q4_0, q4_k, q5_0
from lepton_ref.storage.iq_grids import TABLES, listed
from lepton_ref.storage.layout import Bits

# --- what a bit does --------------------------------------------------------------------------------------------------


def assigned(items: Items, format: BlockFormat) -> np.ndarray:
    """`(8·bytes, elements)` whether the diagram gives this bit to this element."""
    out = np.zeros((8 * format.nbytes, format.length), dtype=bool)
    for (byte, bit), uses in expanded(items, format.length, 0).items():
        out[8 * byte + bit, [e for _, e, _ in uses]] = True
    return out


def changed(format: BlockFormat, block: np.ndarray) -> np.ndarray:
    """`(8·bytes, elements)` whether flipping this bit changes this element."""
    return bits(format.values(all_flipped(block))) != bits(format.values(block[np.newaxis]))


def check_flips(format: BlockFormat, items: Items, seed: int) -> None:
    """A bit changes elements of its own alone."""
    blocks = random_blocks(format, 2, seed)
    for block in (blocks[0], moderate(format, blocks)[1]):
        assert not (changed(format, block) & ~assigned(items, format)).any(), "a bit changes another's element"


def with_code(format: BlockFormat, block: np.ndarray, code: int) -> np.ndarray:
    """The block with this code in every place where `read` finds a part q."""
    out = block.copy()
    for where in places(format.name):
        left = code
        for bits_ in where:
            mask = (1 << bits_.width) - 1
            out[bits_.byte] = out[bits_.byte] & ~np.uint8(mask << bits_.low) | np.uint8((left & mask) << bits_.low)
            left >>= bits_.width
    return out


@functools.cache
def places(name: str) -> list[tuple[Bits, ...]]:
    """Where the codes q of a format lie."""
    read = FORMATS[name].read
    assert read is not None
    zero = bytes(FORMATS[name].nbytes)
    found = {part.where for e in range(FORMATS[name].length) for part in read(zero, e) if part.name == "q"}
    return sorted(found, key=str)


def check_effects(format: BlockFormat, items: Items) -> None:
    """A bit changes each of its elements in some block, every code q tried; or the lattice's table says why it cannot."""
    mine = assigned(items, format)
    width = sum(each.width for each in places(format.name)[0])
    left, seed = mine.copy(), 0
    while left.any() and seed < max(600, 2**width):
        block = moderate(format, random_blocks(format, 1, seed))[0]
        left &= ~changed(format, with_code(format, block, seed % 2**width))
        seed += 1
    said = expanded(items, format.length, 0)
    for place, e in np.argwhere(left):
        uses = [(part, at) for part, element, at in said[int(place) // 8, int(place) % 8] if element == e]
        assert uses == [("q", uses[0][1])], f"bit {place} changes element {e} in no block"
        assert format.name in TABLES, f"bit {place} changes element {e} in no block"
        points = listed(format.name)
        assert all(p[e % 8] == points[code ^ 1 << uses[0][1]][e % 8] for code, p in enumerate(points)), (place, e)


@each_block
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_flipped_bit_changes_no_element_but_its_own(name: str, seed: int) -> None:
    check_flips(FORMATS[name], block_planes(name)[0], seed)


@each_block
def test_a_flipped_bit_changes_each_of_its_elements_in_some_block(name: str) -> None:
    check_effects(FORMATS[name], block_planes(name)[0])


@each_matrix
def test_a_flipped_bit_of_a_tensor_changes_its_elements_alone(entry: Any, sample: Any) -> None:
    check_tensors(page_planes(entry, sample), sample)


def check_tensors(planes: list[Items], sample: Any) -> None:
    """Every bit that the diagram gives to elements changes some of them, and none beside them."""
    layout = sample.layout(sample.tensors)
    base = bits(sample.weight.decode()).reshape(-1)
    for items, plane in zip(planes, layout.planes, strict=True):
        for (byte, bit), uses in expanded(items, layout.count, layout.columns).items():
            try:
                weight = sample.make(sample.flipped(plane.name, 8 * byte + bit))
            except ValueError:  # a number that the class refuses
                continue
            now = set(np.flatnonzero(bits(weight.decode()).reshape(-1) != base).tolist())
            assert now <= {e for _, e, _ in uses}, (plane.name, byte, bit)
            assert now or not base[[e for _, e, _ in uses]].any(), (plane.name, byte, bit)  # FP4 has two codes of +0


# --- planted mistakes -------------------------------------------------------------------------------------------------

LIES = {
    "two elements exchanged": ("Q4_0", "│q16                    │q0 ", "│q0                     │q16"),
    "the wrong bits of a code": ("Q4_K", "sc128…159.4-5│sc0", "sc128…159.2-3│sc0"),
    "a repetition less": ("Q4_K", "bytes 17…46: the byte above 30", "bytes 17…45: the byte above 29"),
    "a repetition of other bytes": ("Q4_K", "the 32 bytes above 3", "the 16 bytes above 6"),
    "another step": ("Q4_K", "elements 64 higher", "elements 32 higher"),
    "a bit that is said to be of no use": ("Q5_0", "│q0.4", "│·   "),
    "a scale of the wrong group": ("Q2_K", "sc0…15 ", "sc1…16 "),
    "a sign without the eighth's": ("IQ2_XXS", "±0 ±7", "±0   "),
}  # fmt: skip


def check_bits(format: BlockFormat, items: Items) -> None:
    check_flips(format, items, 1)
    check_effects(format, items)


NO_FLIP = {"the wrong bits of a code"}
"""Which bits of a code they are, flipping does not say."""


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_page_is_caught(lie: str) -> None:
    name, right, wrong = LIES[lie]
    page = (pages.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert page.count(right) == 1
    (plane,) = text_planes(page.replace(right, wrong))
    with pytest.raises((AssertionError, KeyError)):
        check_diagram([of_text(plane)], layout_of(name))
    if lie not in NO_FLIP:
        with pytest.raises((AssertionError, KeyError, IndexError)):
            check_bits(FORMATS[name], of_text(plane))


GENERATORS = {
    "bits not counted through bytes": (diagram, "                    at += 1\n", ""),
    "a run one too long": (diagram, "Again(at + 1, 1, count - kept, shift)", "Again(at + 1, 1, count - kept + 1, shift)"),
    "rows of other shape alike": (diagram, "if [use.shape() for use in one.uses] != [use.shape() for use in other.uses]:", "if False:"),
    "any bit joins the one below": (diagram, "if before is not None and _continues(before.uses, uses):", "if before is not None and before.uses:"),
    "text from bit 0": (as_text, "reversed(bytes_[at])", "bytes_[at]"),
    "text with other bits": (as_text, 'f".{use.first}"', 'f".{use.first + 1}"'),
    "a drawing from bit 0": (drawn, "(7 - high) * BIT", "high * BIT"),
    "a drawing with other bits": (drawn, 'f"bit {use.first}"', 'f"bit {use.last + 1}"'),
    "a drawing whose rows begin elsewhere": (drawn, "str(row[0])", "str(row[-1])"),
}  # fmt: skip


def check_generator(text: Any, drawing: Any) -> None:
    for name in ("Q4_K", "Q3_K", "Q5_0", "IQ1_M"):
        layout = layout_of(name)
        check_diagram([of_text(text.text(layout))], layout)
        check_diagram(drawing_planes(drawing.drawing(layout, name)), layout)


def test_the_right_generator_passes() -> None:
    check_generator(as_text, drawn)


@pytest.mark.parametrize("bug", GENERATORS)
def test_a_wrong_generator_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, *change = GENERATORS[bug]
    wrong = mutated(original, *change)
    made = {module: wrong if module is original else module for module in (as_text, drawn)}
    for module in (as_text, drawn):
        for name in set(vars(module)) & set(vars(wrong)) if original is diagram else ():
            if not name.startswith("__"):
                monkeypatch.setattr(module, name, getattr(wrong, name))
    with pytest.raises((AssertionError, KeyError, ValueError, IndexError)):
        check_generator(made[as_text], made[drawn])


def check_shifts(module: Any) -> None:
    def row(*elements: tuple[int, ...]) -> list[Any]:
        return [tuple(module.Box(4 * at, 4, (module.Use("q", each, 0, 3, 4),)) for at, each in enumerate(elements))]

    assert module.shift_of([row((0,), (16,))], [row((1,), (17,))]) == 1
    assert module.shift_of([row((0,), (16,))], [row((1,), (18,))]) is None
    assert module.shift_of([row((0, 2), (4,))], [row((1, 4), (5,))]) is None
    assert module.shift_of([row((0,), (16,))], [row((1,))]) is None
    assert module.shift_of([row((0, 1))], [row((2, 3, 4))]) is None
    assert module.shift_of([row((0, 1))], [row((0, 1))]) == 0


def test_rows_are_alike_where_all_elements_are_higher_by_one_number() -> None:
    check_shifts(diagram)


@pytest.mark.parametrize(
    "right", ["shift not in (None, by) or ", " or tuple(e + by for e in use.elements) != moved.elements"]
)
def test_a_wrong_shift_is_caught(right: str) -> None:
    with pytest.raises(AssertionError):
        check_shifts(mutated(diagram, right, ""))


DECODERS = {
    "nibbles exchanged": (q4_0, "nibbles(blocks[:, 2:])", "nibbles(blocks[:, 2:])[:, ::-1]"),
    "the next group's scale": (q4_k, "first & 63, (third & 15)", "first[:, ::-1] & 63, (third & 15)"),
    "fifth bits from above": (q5_0, 'bitorder="little"', 'bitorder="big"'),
}


@pytest.mark.parametrize("bug", DECODERS)
def test_a_diagram_of_another_decoder_is_caught(bug: str) -> None:
    wrong = mutated(*DECODERS[bug])
    (format_,) = (each for each in vars(wrong).values() if isinstance(each, BlockFormat))
    with pytest.raises(AssertionError):
        check_flips(format_, block_planes(format_.name)[0], 1)
