"""Which format each tensor of a model gets: one format, a well-known mixture, and patterns that go before both.

In order, for each tensor of the file:

    1. What is no matrix, and norms, positions and the routers of experts, keep what they have.
    2. The first `--tensor PATTERN=FORMAT` whose pattern fits the name counts; a pattern may also name a kept tensor.
    3. Otherwise the mixture's rule, or the one format.
    4. Rows that are no whole blocks of the format take the fallback: see `lepton_ref.compress.mixtures`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lepton_ref.compress.mixtures import FALLBACKS, FILE_TYPES, IMPORTANCE_WANTED, MIXTURES, Mixture, Place
from lepton_ref.storage import DENSE_FORMATS, FORMATS
from lepton_ref.storage.encoders import ENCODERS

KEPT = ("position_embd", "token_types", "ffn_gate_inp", "attn_rel_b", "ssm_conv1d", "rope_freqs", "rope_factors")
"""Parts of the names of matrices that are never quantised unasked: small, or no factor of a product."""

KINDS = ("attn_v", "attn_qkv", "attn_output", "ffn_down")
"""What the rules of mixtures tell apart by name."""

LAYERS_OF_70B = 80
"""A Llama of so many layers whose heads share keys, and any Qwen2 of so many, is a 70B to llama.cpp."""


@dataclass(frozen=True)
class Recipe:
    """What to make of a model.

    Attributes:
        format: one format for all that is quantised; None where a mixture is given.
        mixture: a key of `MIXTURES`; None where a format is given.
        patterns: (pattern, format) pairs, as fnmatch reads patterns; one without "*" at its end also fits "….weight".
    """

    format: str | None = None
    mixture: str | None = None
    patterns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if (self.format is None) == (self.mixture is None):
            raise ValueError(f"give a format or a mixture, one of them; got {self.format!r} and {self.mixture!r}")
        if self.mixture is not None and self.mixture not in MIXTURES:
            raise ValueError(f"unknown recipe {self.mixture!r}; known: {', '.join(MIXTURES)}")
        for name in [*([] if self.format is None else [self.format]), *(given for _, given in self.patterns)]:
            require_encodable(name)

    @property
    def base(self) -> str:
        """The format of most tensors."""
        if self.format is not None:
            return self.format
        assert self.mixture is not None, "checked when the recipe was made"
        return MIXTURES[self.mixture].base

    @property
    def file_type(self) -> int | None:
        """GGUF's number of it; None where GGUF has none."""
        return FILE_TYPES.get(self.base) if self.mixture is None else MIXTURES[self.mixture].file_type


@dataclass(frozen=True)
class Choice:
    """One tensor's format, and why.

    Attributes:
        format: which.
        why: for people.
        kept: it is what the tensor had, since such tensors are not quantised unasked.
        fallback: it stands for a format of which the tensor's rows are no whole blocks.
    """

    format: str
    why: str
    kept: bool = False
    fallback: bool = False


def not_run(choices: Mapping[str, Choice], /) -> list[str]:
    """A note where a file would hold weights in formats that are none of weights to llama.cpp."""
    found = sorted({choice.format for choice in choices.values()} & {"F64", "Q8_1", "Q8_K"})
    return [f"llama.cpp stops at weights in {', '.join(found)}; this package runs them"] if found else []


def require_encodable(name: str) -> None:
    """Raise ValueError for a format that numbers cannot be encoded in."""
    if name not in DENSE_FORMATS and name not in ENCODERS:
        what = "there is no encoder of" if name in FORMATS else "there is no format"
        raise ValueError(f"{what} {name!r}; known: {', '.join([*DENSE_FORMATS, *ENCODERS])}")


def read_patterns(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`"blk.*.ffn_down=Q6_K"` each -> (pattern, format) pairs.

    Raises:
        ValueError: no "=", an empty pattern, or a format that cannot be encoded.
    """
    found = []
    for text in texts:
        pattern, equals, name = text.rpartition("=")
        if not (pattern and equals and name):
            raise ValueError(
                f"a tensor's format is given as PATTERN=FORMAT, such as 'blk.*.ffn_down=Q6_K', got {text!r}"
            )
        require_encodable(name)
        found.append((pattern, name))
    return tuple(found)


def fits(pattern: str, tensor: str) -> bool:
    """Whether the pattern names the tensor: as it stands, or without ".weight"."""
    return fnmatchcase(tensor, pattern) or fnmatchcase(tensor.removesuffix(".weight"), pattern)


def choose(
    tensors: Mapping[str, tuple[int, ...]],
    recipe: Recipe,
    /,
    *,
    kept: Mapping[str, str],
    sharing: int = 1,
    architecture: str = "llama",
    importance: bool = False,
) -> dict[str, Choice]:
    """Each tensor's format.

    Args:
        tensors: GGUF name → shape (O, I), in the file's order.
        recipe: what to make of them.
        kept: name → the format of a tensor that is not quantised.
        sharing: query heads to a key/value head.
        architecture: GGUF's name of the family.
        importance: whether the encoder is told how much each column counts.

    Raises:
        ValueError: a pattern that fits no tensor, or a format that a mixture asks for and that cannot be encoded.
    """
    for pattern, _ in recipe.patterns:
        if not any(fits(pattern, name) for name in tensors):
            near = nearest(pattern, tensors)
            raise ValueError(f"the pattern {pattern!r} fits no tensor; the file has {', '.join(near)}, …")
    places, is_70b = _places(tensors), _is_70b(_layers(tensors), architecture, sharing)
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    found = {}
    for name, shape in tensors.items():
        given = next((pair for pair in recipe.patterns if fits(pair[0], name)), None)
        if given is not None:
            found[name] = _fitted(Choice(given[1], f"pattern {given[0]}"), shape)
        elif len(shape) < 2 or not quantised(name):
            why = "kept: a vector" if len(shape) < 2 else "kept: never quantised"
            found[name] = Choice(kept[name], why, kept=True)
        elif recipe.mixture is not None:
            place = Place(*places[name], sharing, importance)
            choice = _mixed(name, shape, recipe.mixture, place, is_head=name == head, is_70b=is_70b)
            found[name] = _fitted(choice, shape)
        else:
            found[name] = _fitted(Choice(recipe.base, f"format {recipe.base}"), shape)
        if found[name].format not in (kept[name], *DENSE_FORMATS, *ENCODERS):
            raise ValueError(f"{name}: {recipe.mixture} makes it {found[name].format}, which has no encoder yet")
    return found


def quantised(name: str) -> bool:
    """Whether a matrix of this name is quantised unasked."""
    return name.endswith("weight") and not name.endswith("_norm.weight") and not any(part in name for part in KEPT)


def starved(choices: Mapping[str, Choice], recipe: Recipe, importance: Container[str], /) -> list[str]:
    """The tensors in formats that llama.cpp makes where it has their importance alone, and of which there is none."""
    wanted = IMPORTANCE_WANTED | ({"Q2_K"} if recipe.mixture == "Q2_K_S" else set())
    return [
        name
        for name, one in choices.items()
        if one.format in wanted and name not in importance and not name.startswith(("token_embd", "output."))
    ]


def nearest(wanted: str, names: Iterable[str], /, *, count: int = 3) -> list[str]:
    """The names that are most like this one."""
    from difflib import SequenceMatcher

    return sorted(names, key=lambda name: (-SequenceMatcher(None, wanted, name).ratio(), name))[:count]


def _kind(name: str) -> str:
    found = next((kind for kind in KINDS if f"{kind}.weight" in name or (kind == "ffn_down" and kind in name)), None)
    return name.split(".")[-2] if found is None and "." in name else found or name


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return -1 if found is None else int(found[1])


def _places(tensors: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(index, count) of each name, counted as llama.cpp counts: by layers, fused q, k and v among the attn_v."""
    names = list(tensors)
    layers = _layers(names)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_counted(name), [])
        if name.endswith(".weight"):
            alike[_counted(name)].append(name)
    index = {name: at for some in alike.values() for at, name in enumerate(sorted(some, key=_layer))}
    return {
        name: (index.get(name, 0), layers if _counted(name).startswith("ffn_") else len(alike[_counted(name)]))
        for name in names
    }


def _counted(name: str) -> str:
    kind = _kind(name)
    return "attn_v" if kind == "attn_qkv" else kind


def _layers(tensors: Iterable[str]) -> int:
    return len({_layer(name) for name in tensors} - {-1})


def _mixed(name: str, shape: Sequence[int], mixture: str, place: Place, *, is_head: bool, is_70b: bool) -> Choice:
    what: Mixture = MIXTURES[mixture]
    if is_head:
        if shape[-1] % FORMATS[what.base].length:
            return Choice("Q8_0", f"{mixture}: the head's rows are no whole blocks of {what.base}", fallback=True)
        return Choice(what.head, f"{mixture}: the output head")
    kind = _counted(name)
    rule = next((rule for rule in what.rules if rule.kind == kind and rule.when(place)), None)
    chosen = what.base if rule is None else rule.format
    if kind == "attn_v" and what.more_in_70b and is_70b:
        chosen = "Q5_K" if chosen in ("Q3_K", "Q4_K") else chosen
    return Choice(chosen, mixture if rule is None else f"{mixture}: {kind} {place.index} of {place.count}")


def _is_70b(layers: int, architecture: str, sharing: int) -> bool:
    return layers == LAYERS_OF_70B and (architecture == "qwen2" or (architecture == "llama" and sharing > 1))


def _fitted(choice: Choice, shape: Sequence[int]) -> Choice:
    """The choice, or the fallback where rows are no whole blocks."""
    if choice.format not in FORMATS or shape[-1] % FORMATS[choice.format].length == 0:
        return choice
    other = FALLBACKS.get(choice.format, "F16")
    if other not in FORMATS or shape[-1] % FORMATS[other].length:
        other = "F16"
    why = f"{choice.why}; {shape[-1]} columns are no whole blocks of {choice.format}"
    return Choice(other, why, fallback=True)
