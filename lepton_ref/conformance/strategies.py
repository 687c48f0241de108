"""Hypothesis strategies of the suite's examples, for tests of one's own. Needs `hypothesis`, an optional package.

    @given(strategies.cases("attention"))
    def test_my_attention(case):
        assert conformance.judge_op(case, MyBackend()).wrong is None

Shapes, masks, options and weights come from the suite's own seeded generators; the activations are drawn anew, number
by number, so that Hypothesis can shrink a failure to few and simple numbers. Every function returns a strategy; none is
named as a type here, so that nothing is imported before it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.conformance.case import LAID_OUT, Case
from lepton_ref.conformance.draws import DRAWS
from lepton_ref.conformance.numbers import SPECIAL, held
from lepton_ref.numerics import get_precision
from lepton_ref.plain.shown import shown

FEW_BITS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0)
"""Numbers whose sums and means tie, cancel and vanish."""


def _require_bool(special: object) -> None:
    if not isinstance(special, bool):
        raise TypeError(f"special must be True or False, got {shown(special)}")


def numbers(*, precision: str = "reference", special: bool = True) -> Any:
    """One number that the precision's activations hold: any float32, few bits, or a special value.

    Args:
        precision: a precision's name.
        special: whether NaN, infinities, subnormals and huge numbers are among them; else the sizes are moderate.
    """
    from hypothesis import strategies as st

    _require_bool(special)
    form = get_precision(precision).activations
    limits: dict[str, Any] = {} if special else {"min_value": -16.0, "max_value": 16.0}
    drawn = st.floats(width=32, allow_nan=special, allow_infinity=special, **limits)
    kinds = [st.sampled_from(FEW_BITS), drawn, *([st.sampled_from(SPECIAL.tolist())] if special else [])]
    return st.one_of(*kinds).map(lambda x: float(held(x, form)))


def arrays(shape: tuple[int, ...], *, precision: str = "reference", special: bool = True) -> Any:
    """An array of `numbers`, of the dtype that holds the precision's activations."""
    from hypothesis.extra import numpy as st_numpy

    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError(f"a shape is a tuple of integers from 0 up, got {shown(shape)}")
    dtype = get_precision(precision).dtype
    return st_numpy.arrays(dtype, shape, elements=numbers(precision=precision, special=special))


def cases(op: str, *, precision: str = "reference", special: bool = True) -> Any:
    """Examples of an op, for `judge_op`: the suite's own, adversarial ones among them, or with activations drawn anew.

    Args:
        op: a key of `lepton_ref.conformance.subjects.SUBJECTS`.
        precision: a precision's name.
        special: as in `numbers`.

    Raises:
        ValueError: an unknown op or precision.
    """
    from hypothesis import strategies as st

    get_precision(precision)
    _require_bool(special)
    if not isinstance(op, str) or op not in DRAWS:
        raise ValueError(f"no op named {shown(op)}; known: {', '.join(DRAWS)}")

    def made(seed: int, number: int) -> Case:
        return DRAWS[op](np.random.default_rng(seed), number, precision)

    @st.composite
    def anew(draw: Any) -> Case:
        case = made(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 63)))
        if draw(st.booleans()):
            return case
        drawn = {
            name: draw(arrays(case.inputs[name].shape, precision=precision, special=special))
            for name in LAID_OUT
            if name in case.inputs
        }
        return case.with_(drawn)

    return anew()
