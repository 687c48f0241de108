"""Which pages there are, and what each is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from format_matrices import affine, awq, bnb4, bnb8, cached, fp8, gptq, mx, nvfp4, packed
from format_samples import Sample, block, dense

from lepton_ref.files.gguf_types import TENSOR_NUMBERS
from lepton_ref.runtime.kv_formats import KV_FORMATS
from lepton_ref.storage import DENSE_FORMATS, FORMATS
from lepton_ref.storage.encoders import ENCODERS
from lepton_ref.storage.fp8 import FORMATS as FP8_FORMATS
from lepton_ref.storage.mx import ELEMENTS

LARGE = (256, 1024)
"""The matrix whose bits per weight are counted."""
ENCODER = "lepton_ref.storage.encoders."
SEARCHES = {
    "legacy": ("legacy_weighted",), "iq_lattice": ("lattice",), "Q2_K": ("k_affine",), "Q4_K": ("k_affine",),
    "Q5_K": ("k_affine",), "Q3_K": ("k_symmetric",), "Q6_K": ("k_symmetric",),
}  # fmt: skip
"""Encoder's module, or format → the modules that it searches with."""
SEARCHED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
"""The formats of `legacy` whose scales are searched for where numbers have weights."""


@dataclass(frozen=True)
class Entry:
    """A page.

    Attributes:
        name: the format, and the page's file.
        family: the heading in the index.
        module: whose docstring says the layout.
        samples: its examples, each with a diagram.
        sizes: (what it holds for, bits per weight).
        gguf: the number of the GGUF type.
        also: modules whose docstrings the layout refers to.
        encoders: modules whose docstrings say how numbers are encoded.
        numbers: small float formats whose numbers are listed.
    """

    name: str
    family: str
    module: str
    samples: tuple[Sample, ...]
    sizes: tuple[tuple[str, float], ...]
    gguf: int | None = None
    also: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


def entries() -> list[Entry]:
    """All pages, in the order of the index."""
    return [*map(_dense, DENSE_FORMATS), *map(_block, FORMATS), *_packed(), *_scaled(), _cache()]


def _dense(name: str) -> Entry:
    size = 8.0 * DENSE_FORMATS[name].itemsize
    return Entry(name, "Dense", "lepton_ref.storage.dense", (dense(name),), (("", size),), TENSOR_NUMBERS[name])


def _block(name: str) -> Entry:
    stored = FORMATS[name]
    module = stored.decode.__module__
    encoder = ENCODERS[name].__module__.removeprefix(ENCODER)
    searches = SEARCHES.get(name, SEARCHES.get(encoder, ()) if encoder != "legacy" or name in SEARCHED else ())
    return Entry(
        name, "Blocks, as GGUF has them", module, (block(name),), (("", 8 * stored.nbytes / stored.length),),
        TENSOR_NUMBERS[name], ("lepton_ref.storage.iq_grids",) if encoder == "iq_lattice" else (),
        tuple(ENCODER + each for each in (encoder, *searches)),
    )  # fmt: skip


def _sizes(samples: Sequence[Sample]) -> tuple[tuple[str, float], ...]:
    return tuple((each.title, 8 * each.weight.nbytes / prod(each.weight.shape)) for each in samples)


def _packed() -> list[Entry]:
    family, at = "Packed, several tensors a matrix", "lepton_ref.storage."
    grouped = [gptq(f"{bits} bits, groups of 128", LARGE, bits=bits, version=2, group=128) for bits in (2, 3, 4, 8)]
    words = [packed(f"{bits} bits, groups of 128", LARGE, bits=bits, group=128) for bits in (2, 3, 4, 8)]
    once = bnb4("blocks of 64", LARGE, kind="nf4")
    twice = bnb4("double quantisation", LARGE, kind="nf4", double=True)
    return [
        Entry("GPTQ", family, at + "gptq", (
            gptq("4 bits, version 1, groups of 8", (8, 16), bits=4, version=1, group=8),
            gptq("4 bits, version 2, the same bytes", (8, 16), bits=4, version=2, group=8),
            gptq("3 bits, version 2, one group", (8, 32), bits=3, version=2, group=32),
        ), _sizes(grouped), also=(at + "detect", at + "bitstream", at + "packed")),
        Entry("AWQ", family, at + "awq", (awq("groups of 4", (16, 8), group=4),),
              _sizes([awq("groups of 128", LARGE, group=128)]), also=(at + "packed",)),
        Entry("PACK_QUANTIZED", family, at + "pack_quantized", (
            packed("4 bits, symmetric, groups of 8", (2, 16), bits=4, group=8),
            packed("3 bits, dense, with zeros", (8, 32), bits=3, group=32, zeros=True),
            packed("3 bits, aligned to words", (2, 20), bits=3, group=20, aligned=True),
        ), _sizes(words), also=(at + "bitstream", at + "packed")),
        Entry("NF4", family, at + "bnb4", (
            bnb4("blocks of 64", (2, 64), kind="nf4"),
            bnb4("double quantisation", (2, 64), kind="nf4", double=True),
        ), _sizes([once, twice]), also=(at + "packed",)),
        Entry("FP4", family, at + "bnb4", (bnb4("blocks of 64", (2, 64), kind="fp4"),),
              _sizes([bnb4("blocks of 64", LARGE, kind="fp4")]), also=(at + "packed",)),
        Entry("BNB8", family, at + "bnb8", (bnb8("", (2, 8)),), _sizes([bnb8("", LARGE)]), also=(at + "packed",)),
    ]  # fmt: skip


def _scaled() -> list[Entry]:
    family, at = "Scaled, a matrix of codes and the scales of its tiles", "lepton_ref.storage."
    tiles, tile_scales = at + "scales", ENCODER + "tile_scales"
    found = []
    for name, number in FP8_FORMATS.items():
        samples = [fp8("a scale for each row", (2, 8), format=name, per="channel")]
        if name == "E4M3FN":
            samples += [
                fp8("a scale for the tensor", (2, 8), format=name, per="tensor"),
                fp8("a scale for each block of 2 × 4", (4, 8), format=name, per=(2, 4)),
            ]
        sizes = _sizes([fp8("a scale for each row", LARGE, format=name, per="channel"),
                        fp8("blocks of 128 × 128", LARGE, format=name, per=(128, 128))])  # fmt: skip
        found.append(Entry(f"FP8_{name}", family, at + "fp8", tuple(samples), sizes, also=(tiles,),
                           encoders=(ENCODER + "fp8", tile_scales), numbers=(number,)))  # fmt: skip
    for name, (number, _) in ELEMENTS.items():
        found.append(
            Entry(f"OCP_{name}", family, at + "mx", (mx("", (1, 32), format=name),),
                  _sizes([mx("", LARGE, format=name)]), also=(at + "byte_codes", at + "detect_rule"),
                  encoders=(ENCODER + "mx",), numbers=("e8m0",) if number == "int8" else ("e8m0", number))
        )  # fmt: skip
    found.append(
        Entry("NVFP4_TWO_LEVEL", family, at + "nvfp4_two_level", (
            nvfp4("G multiplies", (1, 32), convention="multiply"), nvfp4("G divides", (1, 32), convention="divide"),
        ), _sizes([nvfp4("", LARGE, convention="multiply")]), also=(at + "detect_scale",),
            encoders=(ENCODER + "nvfp4_two_level",), numbers=("e2m1", "e4m3fn"))
    )  # fmt: skip
    sizes = _sizes(
        [affine(f"{bits} bits, groups of 128", LARGE, bits=bits, per=128, zeros=False) for bits in range(2, 9)]
    )
    found.append(
        Entry("AFFINE", family, at + "affine", (
            affine("4 bits, symmetric, groups of 4", (2, 8), bits=4, per=4, zeros=False),
            affine("3 bits, zero points, a scale for each row", (2, 8), bits=3, per="channel", zeros=True),
        ), sizes, also=(at + "byte_codes", tiles), encoders=(ENCODER + "affine", tile_scales))
    )  # fmt: skip
    return found


def _cache() -> Entry:
    names = [name for name, each in KV_FORMATS.items() if each.group == 32]
    samples = tuple(cached(name, (2, 32), format=name) for name in names)
    sizes = _sizes([cached(name, LARGE, format=name) for name in KV_FORMATS])
    return Entry("KV_CACHE", "Cache of keys and values", "lepton_ref.runtime.kv_formats", samples, sizes,
                 also=("lepton_ref.storage.byte_codes",), numbers=("e4m3fn",))  # fmt: skip
