"""The checks, one plain function each: call it with a backend, in a test of your own or anywhere.

Each tries its claim on examples drawn from a seed, returns an `Outcome`, and raises `ConformanceError` where the claim
does not hold. `CHECKS` lists them all:

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    def test_my_backend(check):
        check(MyBackend())
"""

from __future__ import annotations

from lepton_ref.conformance.outcome import Outcome
from lepton_ref.conformance.trying import EXAMPLES, Check, required
from lepton_ref.interface import Backend


def check_members(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Names, policies and declarations are there, and of the right kind."""
    return required("members", backend, seed=seed, examples=examples)


def check_round_trip(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Arrays come back from the backend as they went."""
    return required("round_trip", backend, seed=seed, examples=examples)


def check_conversion(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Float64 is rounded once to float32, bf16 and fp16."""
    return required("conversion", backend, seed=seed, examples=examples)


def check_arithmetic(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Float64's + − × ÷ √ are IEEE 754's."""
    return required("arithmetic", backend, seed=seed, examples=examples)


def check_functions(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """The names of xp mean what the Array API says."""
    return required("functions", backend, seed=seed, examples=examples)


def check_matmul(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Products are summed in float64."""
    return required("matmul", backend, seed=seed, examples=examples)


def check_sums(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Sums are in float64, over the axis that is named."""
    return required("sums", backend, seed=seed, examples=examples)


def check_library(backend: str | Backend, *, seed: int = 0, examples: int = EXAMPLES) -> Outcome:
    """Exp, log and tanh err by no more than `ulps` declares."""
    return required("library", backend, seed=seed, examples=examples)


def check_embed(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Rows of a table, scaled."""
    return required("embed", backend, precision=precision, seed=seed, examples=examples)


def check_linear(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """X·Wᵀ + b, for every storage class and under every precision's operands."""
    return required("linear", backend, precision=precision, seed=seed, examples=examples)


def check_rms_norm(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """RMSNorm."""
    return required("rms_norm", backend, precision=precision, seed=seed, examples=examples)


def check_layer_norm(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """LayerNorm."""
    return required("layer_norm", backend, precision=precision, seed=seed, examples=examples)


def check_rope(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """RoPE, of all kinds and far positions."""
    return required("rope", backend, precision=precision, seed=seed, examples=examples)


def check_attention(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Attention: masks, groups, caps, sinks, and what must not leak."""
    return required("attention", backend, precision=precision, seed=seed, examples=examples)


def check_activate(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Each activation."""
    return required("activate", backend, precision=precision, seed=seed, examples=examples)


def check_gated(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Each gated activation."""
    return required("gated", backend, precision=precision, seed=seed, examples=examples)


def check_softcap(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """The soft cap."""
    return required("softcap", backend, precision=precision, seed=seed, examples=examples)


def check_softmax(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Softmax."""
    return required("softmax", backend, precision=precision, seed=seed, examples=examples)


def check_log_softmax(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Its logarithm."""
    return required("log_softmax", backend, precision=precision, seed=seed, examples=examples)


def check_log_softmax_at(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Its logarithm at one place of each row."""
    return required("log_softmax_at", backend, precision=precision, seed=seed, examples=examples)


def check_add(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """The residual sum."""
    return required("add", backend, precision=precision, seed=seed, examples=examples)


def check_pool(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Each pooling."""
    return required("pool", backend, precision=precision, seed=seed, examples=examples)


def check_storage(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Linear layers with weights in the storage formats that `check_linear` begins without."""
    return required("storage", backend, precision=precision, seed=seed, examples=examples)


def check_batch_position(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """A sequence has the same bits alone and at every place of a batch."""
    return required("batch_position", backend, precision=precision, seed=seed, examples=examples)


def check_padding_side(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Masked positions on either side change nothing, NaN included."""
    return required("padding_side", backend, precision=precision, seed=seed, examples=examples)


def check_chunked_is_whole(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Positions one at a time have the bits of all at once."""
    return required("chunked_is_whole", backend, precision=precision, seed=seed, examples=examples)


def check_gqa_is_repeated_mha(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Grouped heads are repeated heads."""
    return required("gqa_is_repeated_mha", backend, precision=precision, seed=seed, examples=examples)


def check_rope_shift(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Four laws of RoPE that hold to the bit; see `lepton_ref.conformance.laws`."""
    return required("rope_shift", backend, precision=precision, seed=seed, examples=examples)


def check_permutations(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """The order of what is summed changes nothing."""
    return required("permutations", backend, precision=precision, seed=seed, examples=examples)


def check_powers_of_two(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """A power of two scales to the bit, an exact shift leaves softmax."""
    return required("powers_of_two", backend, precision=precision, seed=seed, examples=examples)


def check_model(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """A whole model's logits are those of the plain forward pass."""
    return required("model", backend, precision=precision, seed=seed, examples=examples)


def check_model_batch_position(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """A whole model gives a sequence the same bits in any batch."""
    return required("model_batch_position", backend, precision=precision, seed=seed, examples=examples)


def check_model_padding_side(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """A whole model's padding may be on either side."""
    return required("model_padding_side", backend, precision=precision, seed=seed, examples=examples)


def check_cache_is_none(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """With a cache, in chunks of any size, a whole model gives the bits of a run without one."""
    return required("cache_is_none", backend, precision=precision, seed=seed, examples=examples)


def check_model_vocabulary(
    backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """The vocabulary permuted and permuted back."""
    return required("model_vocabulary", backend, precision=precision, seed=seed, examples=examples)


CHECKS: tuple[Check, ...] = (
    check_members,
    check_round_trip,
    check_conversion,
    check_arithmetic,
    check_functions,
    check_matmul,
    check_sums,
    check_library,
    check_embed,
    check_linear,
    check_rms_norm,
    check_layer_norm,
    check_rope,
    check_attention,
    check_activate,
    check_gated,
    check_softcap,
    check_softmax,
    check_log_softmax,
    check_log_softmax_at,
    check_add,
    check_pool,
    check_storage,
    check_batch_position,
    check_padding_side,
    check_chunked_is_whole,
    check_gqa_is_repeated_mha,
    check_rope_shift,
    check_permutations,
    check_powers_of_two,
    check_model,
    check_model_batch_position,
    check_model_padding_side,
    check_cache_is_none,
    check_model_vocabulary,
)
"""All checks, in the order of `lepton_ref.conformance.claims.CLAIMS`."""
