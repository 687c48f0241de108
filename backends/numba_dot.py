"""Sixteen dot products of four bytes: the one operation for which each processor has its own instruction.

    dot4(isa, acc, u, s)[r] = acc[r] + Σⱼ u[4r + j]·s[4r + j]     u unsigned, s signed bytes; int32, exact

    VNNI    AVX-512's vpdpbusd, sixty-four products in one instruction
    AVX2    even and odd bytes widened to sixteen bits, vpmaddwd on each: no sum saturates, as vpmaddubsw's would
    PLAIN   widen, multiply, add, for any processor that LLVM knows

All three give the same integers. Which one is decided by the type of the first argument, when a kernel is compiled, so
that one source serves all and Numba keeps what it compiled for each apart.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import NativeValue, intrinsic, models, register_model, typeof_impl, unbox

from lepton_ref.backends.numba_vectors import I8X64, I32, I32X16, Vector, declared, splatted

NAMES = ("vnni", "avx2", "plain")
"""Instruction sets, the fastest first."""

FEATURES = {"vnni": ("avx512vnni", "avx512bw", "avx512vl"), "avx2": ("avx2",), "plain": ()}
"""What the processor must have, by LLVM's names."""


class Isa:
    """An instruction set as a value that kernels take; see `chosen`.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str) -> None:
        if name not in NAMES:
            raise ValueError(f"unknown instruction set {name!r}; known: {', '.join(NAMES)}")
        self.name = name

    def __repr__(self) -> str:
        return f"Isa({self.name!r})"


class IsaType(types.Type):  # Numba has no type hints
    """The type of one instruction set: the set is in the type, the value is empty."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        super().__init__(name=f"Isa({isa})")


@register_model(IsaType)
class IsaModel(models.OpaqueModel):
    """Nothing at run time."""


@typeof_impl.register(Isa)
def _type_of_isa(value: Isa, context: Any) -> IsaType:
    return IsaType(value.name)


@unbox(IsaType)
def _nothing(kind: Any, value: Any, context: Any) -> Any:
    return NativeValue(context.context.get_dummy_value())


def available() -> tuple[str, ...]:
    """The instruction sets that this processor has, and that Numba compiles for, the fastest first."""
    features = target_features()
    return tuple(name for name in NAMES if all(feature in features for feature in FEATURES[name]))


def target_features() -> frozenset[str]:
    """The processor's features that Numba compiles for: the host's, but for NUMBA_CPU_NAME and NUMBA_CPU_FEATURES."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    del triple, name
    return frozenset(feature[1:] for feature in features.split(",") if feature.startswith("+"))


def require_halves() -> None:
    """See that float16 can be converted.

    Raises:
        RuntimeError: an x86 without F16C; LLVM would call functions that are not there.
    """
    triple, name, _ = cpu_target.target_context.codegen().magic_tuple()
    if "x86" in triple and "f16c" not in target_features():
        raise RuntimeError(
            f"backend 'numba' needs F16C on x86, which {name} as Numba compiles for it has not; "
            "take backend 'numpy', or unset NUMBA_CPU_NAME and NUMBA_CPU_FEATURES"
        )


def chosen(name: str | None = None) -> Isa:
    """The instruction set of that name, or the fastest that this processor has.

    Raises:
        ValueError: an unknown name, or one that this processor does not have.
    """
    found = available()
    isa = Isa(found[0] if name is None else name)
    if isa.name not in found:
        raise ValueError(f"this processor has no {isa.name}; it has {', '.join(found)}")
    return isa


@intrinsic
def dot4(typing: Any, isa: Any, acc: Any, u: Any, s: Any) -> Any:
    """`(isa, acc, u, s) -> acc`: see the top of the page."""
    if not isinstance(isa, IsaType) or (acc, u, s) != (I32X16, I8X64, I8X64):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return dotted(isa, builder, args[1], args[2], args[3])

    return I32X16(isa, acc, u, s), emit


def dotted(isa: IsaType, builder: Any, acc: Any, u: Any, s: Any) -> Any:
    """The same while code is emitted, for those that emit more than one."""
    return {"vnni": _by_vnni, "avx2": _by_avx2, "plain": _plainly}[isa.isa](builder, acc, u, s)


def _by_vnni(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    vector = I32X16.llvm
    function = declared(builder, "llvm.x86.avx512.vpdpbusd.512", vector, [vector] * 3)
    return builder.call(function, [acc, builder.bitcast(u, vector), builder.bitcast(s, vector)])


def _by_avx2(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    words, sums = ir.VectorType(ir.IntType(16), 16), ir.VectorType(I32, 8)
    function = declared(builder, "llvm.x86.avx2.pmadd.wd", sums, [words] * 2)
    eight = splatted(builder, ir.Constant(ir.IntType(16), 8), 16)
    parts = []
    for start in (0, 32):
        low, high = (_slice(builder, x, start, 32) for x in (u, s))
        wide_u, wide_s = (builder.bitcast(x, words) for x in (low, high))
        even_u = builder.and_(wide_u, splatted(builder, ir.Constant(ir.IntType(16), 255), 16))
        even_s = builder.ashr(builder.shl(wide_s, eight), eight)
        odd_u, odd_s = builder.lshr(wide_u, eight), builder.ashr(wide_s, eight)
        pair = [builder.call(function, [even_u, even_s]), builder.call(function, [odd_u, odd_s])]
        parts.append(builder.add(*pair))
    whole = builder.shuffle_vector(*parts, ir.Constant(ir.VectorType(I32, 16), list(range(16))))
    return builder.add(acc, whole)


def _plainly(builder: Any, acc: Any, u: Any, s: Any) -> Any:
    wide = ir.VectorType(I32, 64)
    product = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
    for j in range(4):
        acc = builder.add(acc, _picked(builder, product, [4 * lane + j for lane in range(16)]))
    return acc


def _slice(builder: Any, value: Any, start: int, count: int) -> Any:
    return _picked(builder, value, list(range(start, start + count)))


def _picked(builder: Any, value: Any, lanes: list[int]) -> Any:
    undefined = ir.Constant(value.type, ir.Undefined)
    return builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


@intrinsic
def low_nibbles(typing: Any, vector: Any) -> Any:
    """`(bytes) -> bytes`: the lower four bits of each."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(args[0], splatted(builder, ir.Constant(ir.IntType(8), 15), vector.lanes))

    return vector(vector), emit


@intrinsic
def high_nibbles(typing: Any, vector: Any) -> Any:
    """`(bytes) -> bytes`: the upper four bits of each, by shifting sixteen at a time."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = ir.VectorType(ir.IntType(16), vector.lanes // 2)
        four = splatted(builder, ir.Constant(ir.IntType(16), 4), vector.lanes // 2)
        shifted = builder.bitcast(builder.lshr(builder.bitcast(args[0], words), four), vector.llvm)
        return builder.and_(shifted, splatted(builder, ir.Constant(ir.IntType(8), 15), vector.lanes))

    return vector(vector), emit


@intrinsic
def with_bit4(typing: Any, vector: Any, mask: Any) -> Any:
    """`(bytes, mask) -> bytes`: bit 4 set where the mask has its bit, an int64 whose bit i belongs to byte i."""
    if not isinstance(vector, Vector) or vector.lanes != 64:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        chosen_ = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
        bit = splatted(builder, ir.Constant(ir.IntType(8), 16), 64)
        none = ir.Constant(vector.llvm, None)
        return builder.or_(args[0], builder.select(chosen_, bit, none))

    return vector(vector, types.int64), emit
