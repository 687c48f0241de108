"""How heads turn, as a GGUF says it: keys for the base and the scaling, tensors for what divides each frequency.

    linear     rope.scaling.type, .factor
    yarn       the same; .original_context_length, .yarn_beta_fast, .yarn_beta_slow; .attn_factor, by which yarn's own
               scale 1 + 0.1·ln factor is multiplied
    llama3     tensor rope_freqs: 1/((1 − t)/factor + t) with the t of `lepton_ref.plain.rope`, 1 where the wavelength
               is short and 0 where it is long
    longrope   tensors rope_factors_long and _short; .original_context_length; .attn_factor, the scale itself

Numbers are float32 there. llama.cpp reads yarn's two bounds in none of these architectures.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.constants import yarn_scale
from lepton_ref.models.reader import Reader
from lepton_ref.ops import Rope, attention_factor
from lepton_ref.plain import rope as plain
from lepton_ref.plain.real import FIRST, Interval, Real
from lepton_ref.storage import Dense, Weight

BETAS = (32.0, 1.0)
"""Yarn's bounds where a file says none."""


def rope_to_gguf(
    rope: Rope, kinds: tuple[str, ...], fields: Reader
) -> tuple[dict[str, Any], dict[str, Weight], tuple[str, ...]]:
    """Metadata, tensors and notes that say how heads turn.

    Args:
        rope: the record.
        kinds: those that the architecture can say.
        fields: config.json, for messages.

    Raises:
        ValueError: a kind or an option that the file cannot say.
    """
    section = next((n for n in ("rope_scaling", "rope_parameters") if fields.has(n)), "rope_parameters")
    if rope.kind not in kinds:
        wanted = ", ".join(kinds)
        raise fields.wrong(section, rope.kind, f"of type {wanted}, the only ones that a GGUF of this family can say")
    found: dict[str, Any] = {"rope.freq_base": rope.theta, "rope.dimension_count": rope.width}
    if rope.kind == "linear":
        return found | {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}, {}, ()
    if rope.kind == "llama3":
        return found, {"rope_freqs.weight": _vector(llama3_divisors(rope))}, ()
    if rope.kind == "yarn":
        if not rope.truncate:
            raise fields.wrong(section, "truncate false", "with truncate true, which GGUF implies")
        return found | _yarn(rope), {}, _yarn_notes(rope)
    if rope.kind == "longrope":
        lists = {"long": rope.long_factors, "short": rope.short_factors}
        tensors: dict[str, Weight] = {f"rope_factors_{k}.weight": _vector(np.array(v)) for k, v in lists.items()}
        scaling = {"type": "longrope", "original_context_length": rope.original_length}
        scaling["attn_factor"] = attention_factor(rope)
        return found | {f"rope.scaling.{key}": value for key, value in scaling.items()}, tensors, ()
    return found, {}, ()


def _vector(values: NDArray[Any]) -> Dense:
    return Dense(values.astype("<f4"), format="F32")


def _yarn(rope: Rope) -> dict[str, Any]:
    """Yarn's scaling; its own attention factor goes without saying."""
    scaling: dict[str, Any] = {
        "type": "yarn",
        "factor": rope.factor,
        "original_context_length": rope.original_length,
        "yarn_beta_fast": rope.beta_fast,
        "yarn_beta_slow": rope.beta_slow,
    }
    own = yarn_scale(rope.factor, 1.0)
    if attention_factor(rope) != own:
        scaling["attn_factor"] = attention_factor(rope) / own
    return {f"rope.scaling.{key}": value for key, value in scaling.items()}


def _yarn_notes(rope: Rope) -> tuple[str, ...]:
    if (rope.beta_fast, rope.beta_slow) == BETAS:
        return ()
    shown = f"yarn's beta_fast {rope.beta_fast:g} and beta_slow {rope.beta_slow:g}"
    return (
        f"llama.cpp does not read {shown} and takes {BETAS[0]:g} and {BETAS[1]:g}: its logits are of another model",
    )


def llama3_divisors(rope: Rope) -> NDArray[np.float32]:
    """`-> (R/2)` what each frequency is divided by: each real number rounded once to float32."""
    return np.array([_llama3_divisor(rope, pair).round("fp32") for pair in range(rope.width // 2)], dtype=np.float32)


def _llama3_divisor(rope: Rope, pair: int) -> Real:
    factor = Fraction(rope.factor)
    if plain.is_algebraic(rope, pair, length=rope.original_length):  # kept or divided as a whole
        return Real.rational(factor if plain.llama3_blend(rope, pair, FIRST).high == 0 else 1)

    def enclose(digits: int) -> Interval:
        kept = plain.llama3_blend(rope, pair, digits)
        return 1 / ((1 - kept) / factor + kept)

    return Real(enclose)
