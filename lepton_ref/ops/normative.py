"""The normative table: for each op what it is given, its real-number function, what is rounded, its edges and its ties.

This is the text of the specification whose code is `lepton_ref.plain`. The examples are calls of `lepton_ref.plain.ops`
and what comes out rounded to fp32. scripts/normative_table.py makes docs/normative-table.md of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Norm:
    """What is normative about one op.

    Attributes:
        page: the module whose docstring has the formula, the bound and the source.
        inputs: what the op is given, as real numbers.
        function: the real-number function.
        rounded: what is rounded, and to what.
        edges: NaN, infinities, the signs of zeros, empty and masked input, what is refused.
        ties: how it is decided that the value lies on a midpoint, and by which theorem.
        examples: (a call of `lepton_ref.plain.ops`, its values rounded to fp32).
    """

    page: str
    inputs: str
    function: str
    rounded: str
    edges: str
    ties: str
    examples: tuple[tuple[str, str], ...] = ()


ONCE = "Each element once, to the activations' format, to nearest even; overflow to infinity, subnormals kept."
RATIONAL = "The value is rational: comparisons are of integers."
LINDEMANN = (
    "exp of an algebraic number other than 0 is transcendental (Lindemann), so the value is rational at 0 alone, or "
    "where the function is constant"
)


def _moves(page: str, inputs: str, function: str, edges: str) -> Norm:
    """An op that chooses numbers and makes none."""
    return Norm(page, inputs, function, "Nothing.", edges, "There are none.")


NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "embed": Norm(
            page="lepton_ref.ops.embed",
            inputs="A token's id; the table's row as it decodes; scale, the float64 number that the op list holds.",
            function="y = scale · w[id]",
            rounded=ONCE + " With scale 1 a float32 row stays as it is under fp32.",
            edges="An id outside the table is refused. NaN, infinities and zeros as IEEE 754 multiplies.",
            ties=RATIONAL,
            examples=(("embed(0, [[-0.0, 1e-300]], scale=2.0)", "[-0.0, 0.0]"),),
        ),
        "linear": Norm(
            page="lepton_ref.ops.linear",
            inputs=(
                "Activations x; the matrix w as it decodes, a float32 number for every format but F64, or what the "
                "precision's operands make of x and w; the bias b, if there is one."
            ),
            function="y[o] = Σᵢ x[i]·w[o, i] + b[o]",
            rounded=ONCE + " The bias is inside the one rounding.",
            edges=(
                "Terms that are not finite decide by themselves, in any order: 0·∞ and ∞ − ∞ are NaN. A sum that is "
                "exactly zero is −0 if every term, the bias included, has a minus sign, otherwise +0. No intermediate "
                "overflows."
            ),
            ties=RATIONAL + " The sum is computed exactly and compared with the midpoint.",
            examples=(
                ("linear([-0.0, 1.0], [[1.0, -0.0]])", "[-0.0]"),
                ("linear([1.0, -1.0], [[1.0, 1.0]])", "[0.0]"),
                ("linear([3e38, 3e38], [[1.0, -1.0]], [1.0])", "[1.0]"),
                ("linear([1.0, 0.0], [[1.0, float('inf')]])", "[nan]"),
            ),
        ),
        "rms_norm": Norm(
            page="lepton_ref.ops.rms_norm",
            inputs="A row x; weights w; ε and the offset, the stored numbers.",
            function="y[d] = x[d]·(offset + w[d]) / √(Σⱼ x[j]²/D + ε)",
            rounded=ONCE + " offset + w is not rounded.",
            edges=(
                "A NaN in the row makes all of it NaN. An infinity makes the root infinite: finite numbers become "
                "zeros of the product's sign, infinite ones NaN. A root of zero (all x zero and ε = 0) gives NaN. "
                "Zeros have the product's sign."
            ),
            ties="Compared by squares, as integers: x²·w'²·D against m²·(Σ x² + D·ε).",
            examples=(
                ("rms_norm([float('inf'), -2.0], [1.0, 1.0], eps=0.0)", "[nan, -0.0]"),
                ("rms_norm([0.0, -0.0], [1.0, 1.0], eps=0.0)", "[nan, nan]"),
                ("rms_norm([3.0, -4.0], [0.0, 0.0], eps=0.5, offset=1.0)", "[0.8320503234863281, -1.1094003915786743]"),
            ),
        ),
        "layer_norm": Norm(
            page="lepton_ref.ops.layer_norm",
            inputs="A row x; weights w; biases b, if there are any; ε, the stored number.",
            function="y[d] = (x[d] − μ)·w[d] / √(Σⱼ (x[j] − μ)²/D + ε) + b[d],  μ = Σⱼ x[j]/D",
            rounded=ONCE + " The mean is not rounded.",
            edges=(
                "A NaN or an infinity in the row makes all of it NaN, and so does a root of zero. x − μ = 0 is +0, but "
                "−0 where x is −0 and μ is +0; then signs are a product's and a sum's."
            ),
            ties="Compared by squares, after the bias has been taken from both sides.",
            examples=(
                ("layer_norm([1.0, 1.0], [1.0, -1.0], eps=1.0)", "[0.0, -0.0]"),
                ("layer_norm([1.0, 1.0], [1.0, 1.0], eps=0.0)", "[nan, nan]"),
            ),
        ),
        "rope": Norm(
            page="lepton_ref.ops.rope",
            inputs=(
                "A head x; its position, an integer; the base θ, scaling and factors, stored numbers; for kinds that "
                "depend on it, the length that the cache was created for, or without a cache the number of positions."
            ),
            function=(
                "(y₀, y₁) = A·(x₀·cos φ − x₁·sin φ, x₀·sin φ + x₁·cos φ),  φ = position·frequency[pair]; the frequency "
                "and the attention factor A as `lepton_ref.ops.rope_frequencies` defines them, as real numbers"
            ),
            rounded=ONCE + " Angle, cosine, sine and factor are not rounded.",
            edges=(
                "Numbers beyond the rotary width pass. A pair that does not turn (position 0, frequency 0) is "
                "multiplied by A. NaN, infinities and zeros as IEEE 754 has them for the two products and their sum, "
                "with the signs of the real cosine and sine."
            ),
            ties=(
                "For an algebraic angle other than 0, 1, cos φ and sin φ are linearly independent over the algebraic "
                "numbers (Lindemann and Weierstrass): y is never a midpoint where A is algebraic. Of other angles "
                "(between llama3's bounds, between yarn's without `truncate`) and factors no theorem is known, and the "
                "digit limit stands."
            ),
        ),
        "attention": Norm(
            page="lepton_ref.ops.attention",
            inputs="One query q, keys and values as the cache holds them, who is seen, the scale, a cap, a sink.",
            function=(
                "y = Σₛ exp(score[s])·value[s] / (Σₛ exp(score[s]) + exp(sink)) over the keys that are seen, "
                "score[s] = cap(scale·Σₖ q[k]·key[s, k]),  cap(z) = c·tanh(z/c)"
            ),
            rounded=ONCE + " Neither scores nor weights are rounded, however keys are tiled.",
            edges=(
                "What is not seen takes no part, NaN included. A query that sees nothing gives +0. A score of −∞ "
                "weighs 0, and 0·∞ is NaN; a score that is NaN, or +∞ where no cap makes it finite, makes all NaN, "
                "and so do scores of −∞ alone without a sink. A sink of +∞ takes all weight. A mean that is exactly "
                "zero is −0 if every term is −0, otherwise +0."
            ),
            ties=(
                "y = m if and only if Σ c·exp(e) = 0 with c = value − m (and −m for the sink). Terms of equal "
                "exponents are added up; exponentials of different algebraic numbers are linearly independent "
                "(Lindemann and Weierstrass), so it is zero only if every sum is. Capped scores are not algebraic: "
                "the order of the exponents decides (Abel's summation), or digits do, or the digit limit stands."
            ),
            examples=(
                ("attention([1.0], [[1.0]], [[2.0]], [False], scale=1.0)", "[0.0]"),
                ("attention([0.0], [[1.0], [2.0]], [[1.0], [2.0]], [True, True], scale=1.0)", "[1.5]"),
                ("attention([0.0], [[1.0], [2.0]], [[-0.0], [float('nan')]], [True, False], scale=1.0)", "[-0.0]"),
            ),
        ),
        "add": Norm(
            page="lepton_ref.ops.residual",
            inputs="Two activations.",
            function="y = x + f",
            rounded=ONCE,
            edges="As IEEE 754 adds: −0 only from two −0, ∞ − ∞ is NaN.",
            ties=RATIONAL,
            examples=(("add([-0.0, 1.0, 1.0], [-0.0, -1.0, 2.0**-24])", "[-0.0, 0.0, 1.0]"),),
        ),
        "activate": Norm(
            page="lepton_ref.ops.activation",
            inputs="An activation x.",
            function=(
                "y = activation(x): relu, relu2, sigmoid, tanh, silu, quick_gelu, gelu, gelu_tanh, with 1.702 and "
                "0.044715 as decimals and √(2/π) as a real number"
            ),
            rounded=ONCE,
            edges=(
                "relu and relu2 of ±0 are +0, sigmoid of ±0 is ½, the others keep a zero's sign. sigmoid is 0 and 1 at "
                "the infinities, tanh ±1; silu and the GELUs are NaN at −∞, since −∞·0 is, and ∞ at +∞. NaN stays."
            ),
            ties=(
                f"{LINDEMANN}: sigmoid, tanh, silu, quick_gelu. relu and relu2 are rational. Of the two GELUs no "
                "theorem is known: the digit limit stands."
            ),
            examples=(
                ("activate([-0.0, -1.0], 'relu')", "[0.0, 0.0]"),
                ("activate([-0.0, float('-inf'), float('inf')], 'silu')", "[-0.0, nan, inf]"),
                ("activate([float('-inf'), -200.0], 'sigmoid')", "[0.0, 0.0]"),
            ),
        ),
        "gated": Norm(
            page="lepton_ref.ops.activation",
            inputs="Two activations, gate and up.",
            function="y = activation(gate)·up",
            rounded=ONCE + " The activation is not rounded before it is multiplied.",
            edges="As `activate`, then as IEEE 754 multiplies: 0·∞ is NaN, a zero has the product's sign.",
            ties="As `activate`, since up is rational; up = 0 gives a zero.",
            examples=(("gated([1.0, -1.0], [-0.0, -0.0], 'silu')", "[-0.0, 0.0]"),),
        ),
        "softcap": Norm(
            page="lepton_ref.ops.softcap",
            inputs="A logit x; cap, the stored number.",
            function="y = cap·tanh(x/cap)",
            rounded=ONCE,
            edges="±cap at the infinities; a zero's sign and NaN stay. A cap that is not positive is refused.",
            ties=LINDEMANN + ".",
            examples=(("softcap([float('inf'), -0.0], 30.0)", "[30.0, -0.0]"),),
        ),
        "softmax": Norm(
            page="lepton_ref.ops.softmax",
            inputs="A row of scores.",
            function="y[i] = exp(x[i]) / Σⱼ exp(x[j])",
            rounded=ONCE,
            edges="−∞ has probability +0. A row that holds a NaN or +∞, or −∞ alone, is NaN. An empty row is refused.",
            ties=(
                "Terms of equal exponents are added up; by Lindemann and Weierstrass the value is rational only where "
                "all scores above −∞ are equal."
            ),
            examples=(
                ("softmax([7.0, float('-inf'), 7.0])", "[0.5, 0.0, 0.5]"),
                ("softmax([float('-inf')])", "[nan]"),
            ),
        ),
        "log_softmax": Norm(
            page="lepton_ref.ops.softmax",
            inputs="A row of scores.",
            function="y[i] = −log Σⱼ exp(x[j] − x[i])",
            rounded=ONCE + " Under every precision but `float64`, scoring rounds it to fp32.",
            edges="−∞ for −∞, +0 where no other score is above −∞, never positive otherwise; NaN rows as softmax.",
            ties="exp(−m) is compared with the sum of exponentials, by the theorem of softmax.",
            examples=(("log_softmax([7.0, float('-inf')])", "[0.0, -inf]"),),
        ),
        "log_softmax_at": Norm(
            page="lepton_ref.ops.softmax",
            inputs="A row of scores, and which of them is asked for.",
            function="log_softmax at one place of each row",
            rounded=ONCE,
            edges="As log_softmax; an index outside the row is refused.",
            ties="As log_softmax.",
        ),
        "pool": Norm(
            page="lepton_ref.ops.pool",
            inputs="The unmasked positions of a sequence.",
            function="mean Σₜ x[t]/n, the first position, or the maximum; normalised y/max(√Σ y², 10⁻¹²)",
            rounded=ONCE + " Mean and normalisation are one op; 10⁻¹² is the decimal.",
            edges=(
                "What is masked takes no part; a sequence without an unmasked position is refused. Of +0 and −0 the "
                "larger is +0. A mean of zeros is −0 if all are. A NaN makes a normalised vector NaN; infinities "
                "become NaN and make the finite numbers zeros."
            ),
            ties="Rational, or compared by squares.",
            examples=(
                ("pool([[-0.0], [0.0]], kind='max', normalise=False)", "[0.0]"),
                ("pool([[3.0, -4.0]], kind='cls', normalise=True)", "[0.6000000238418579, -0.800000011920929]"),
            ),
        ),
        "last": _moves(
            "lepton_ref.models.execute",
            "The hidden states of a sequence.",
            "The last unmasked position, where only that is asked for; otherwise all",
            "NaN and infinities pass.",
        ),
        "first": _moves(
            "lepton_ref.models.execute",
            "The hidden states of a sequence.",
            "The first unmasked position",
            "NaN and infinities pass.",
        ),
        "attention_mask": _moves(
            "lepton_ref.ops.masks",
            "Each token's number among the unmasked tokens of its sequence; which are padding; the window.",
            "seen = valid, not after the query where causal, less than `window` away where there is one",
            "Padding is seen by nobody. Slots, the padding's side and chunks have no part in it.",
        ),
        "rope_tables": Norm(
            page="lepton_ref.ops.rope_tables",
            inputs="Positions, and how the model rotates.",
            function="A·cos φ and A·sin φ",
            rounded="To float64, and kept in double-double beside it: a part of computing rope, not of its definition.",
            edges="Positions that are not integers are refused.",
            ties="None matter: rope is decided from the real angle.",
        ),
        "choose": Norm(
            page="lepton_ref.runtime.sampling",
            inputs="A row of rounded logits; temperature, top-k, top-p, min-p, penalty; u from Philox.",
            function="The first id whose probability, added to those of all ids before it, exceeds u",
            rounded=(
                "Penalty and temperature are float64's own operations, each rounded. Probabilities are real numbers, "
                "and are compared as such."
            ),
            edges="NaN and +∞ are refused. −∞ has probability 0. Among equal logits the lower id goes first.",
            ties="Lindemann and Weierstrass, as softmax.",
        ),
    }
)
"""Op → what is normative about it: every public op, every kind of op in a program, and the choice of a token."""
