"""From a quantised checkpoint's several tensors a matrix to one weight, under the name that a dense file gives it.

    gptq                 q_proj.qweight, .qzeros, .scales, .g_idx                                        → q_proj.weight
    awq                  q_proj.qweight, .qzeros, .scales                                                → q_proj.weight
    compressed-tensors   q_proj.weight_packed, .weight_scale, .weight_zero_point, .weight_shape, .weight_g_idx
    bitsandbytes         q_proj.weight, .weight.absmax, .weight.quant_map, .weight.nested_*, .weight.quant_state.*; or
                         q_proj.weight, .SCB, .weight_format
    fp8, modelopt        and the other formats of compressed-tensors: see `lepton_ref.models.scaled`

Which of them, `quantization_config` in config.json says. A setting that is not known here is refused by name: it might
change what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.models import packed_bitsandbytes, packed_compressed, packed_gptq, scaled
from lepton_ref.models.packed_parts import PartsOfFile
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Weight


def _read_compressed(config: Reader, parts: PartsOfFile) -> dict[str, Weight]:
    """compressed-tensors in any of the formats that are read."""
    known = config.text("format", None) in (*scaled.FORMATS, scaled.NAIVE)
    return (scaled.read_compressed if known else packed_compressed.read)(config, parts)


METHODS: Mapping[str, Callable[[Reader, PartsOfFile], dict[str, Weight]]] = MappingProxyType(
    {
        "gptq": packed_gptq.read_gptq,
        "awq": packed_gptq.read_awq,
        "compressed-tensors": _read_compressed,
        "bitsandbytes": packed_bitsandbytes.read,
        "fp8": scaled.read_fp8,
        "modelopt": scaled.read_modelopt,
    }
)
"""`quant_method` → reader."""


class _Grouped(Mapping[str, Weight]):
    """A file's weights without the parts that were grouped, and with what they make."""

    def __init__(self, base: Mapping[str, Weight], used: frozenset[str], made: Mapping[str, Weight]) -> None:
        self._base, self._used, self._made = base, used, made

    def __getitem__(self, name: str) -> Weight:
        if name in self._made:
            return self._made[name]
        if name in self._used:
            raise KeyError(name)
        return self._base[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made or (name in self._base and name not in self._used)

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._base if name not in self._used and name not in self._made)
        yield from self._made

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Grouped:
    """The tensors of a quantised file, as a program binds them.

    Attributes:
        tensors: name → weight, the packed ones as one each.
        others: the names of tensors that are no weights and belong to none.
        spare: zero biases that AutoGPTQ stored for every layer, with or without a bias of its own: no model needs them.
    """

    tensors: Mapping[str, Weight]
    others: list[str]
    spare: frozenset[str] = frozenset()


def group(
    config: Reader,
    tensors: Mapping[str, Weight],
    integers: Mapping[str, HostArray],
    *,
    others: list[str],
    where: str,
    codes: Mapping[str, tuple[str, HostArray]] = MappingProxyType({}),
) -> Grouped:
    """The tensors of a file, those of each packed matrix made one weight.

    Args:
        config: `quantization_config`; without fields nothing is packed.
        tensors: the file's weights.
        integers: its other arrays.
        others: the names of all its tensors that are no weights.
        where: the file, for messages.
        codes: its small floats of a byte each: name → type and bytes.

    Raises:
        ConfigError: a method or a setting that is not known.
        WeightsError: a part missing, or parts that contradict each other; the message names the matrix.
    """
    if not config.fields:
        return Grouped(tensors, others)
    method = config.text("quant_method", config.text("method", None))
    if method not in METHODS:
        raise config.wrong("quant_method", method, f"one of {', '.join(METHODS)}, or absent for dense weights")
    parts = PartsOfFile(tensors, integers, where, codes)
    made = METHODS[method](config, parts)
    used = frozenset(parts.used)
    spare = frozenset(_zero_biases(tensors, made)) if method == "gptq" else frozenset()
    return Grouped(_Grouped(tensors, used, made), [name for name in others if name not in used], spare)


def _zero_biases(tensors: Mapping[str, Weight], made: Mapping[str, Weight]) -> Iterator[str]:
    """The biases of packed matrices that are all zero. Up to version 0.7 AutoGPTQ wrote them where there is none."""
    names = {f"{name.removesuffix('.weight')}.bias" for name in made}
    for name in tensors:
        if name in names and not np.any(tensors[name].decode()):
            yield name
