"""Run a transformers model in float64 throughout, and prove that no float32 took part.

A transformers model in ``dtype=float64`` still casts to float32 inside its norms, RoPE and softmax, which costs up to
1.6e-5 of the logits' standard deviation. Inside :func:`true_float64` the names that those casts use mean float64, and
inside :class:`OnlyFloat64` any operation that yields a narrower floating-point tensor raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLOAT32 = torch.float32  # the real one, kept before anything is renamed


@contextmanager
def true_float64() -> Iterator[None]:
    """Make ``torch.float32``, ``torch.float`` and ``Tensor.float`` mean float64 until the block ends.

    A default argument that was bound to float32 at import is not reached by this; :class:`OnlyFloat64` finds it.
    """
    saved = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.float32 = torch.float = torch.float64  # type: ignore[misc]
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32, torch.float = saved[:2]  # type: ignore[misc]
        torch.Tensor.float = saved[2]  # type: ignore[method-assign]
        torch.set_default_dtype(saved[3])


class OnlyFloat64(TorchDispatchMode):
    """Refuse every torch operation whose result is a floating-point tensor other than float64.

    Raises:
        FloatingPointError: an operation returned such a tensor; the message names both.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at the type of every tensor that it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype is not torch.float64:
                raise FloatingPointError(f"{func}: returned {leaf.dtype}, so this run is not a float64 run")
        return result


def build(model_class: type[Any], config: Any) -> Any:
    """A float64 model of ``config``, eager attention, evaluation mode, random weights; call inside true_float64."""
    config._attn_implementation = "eager"
    with OnlyFloat64():
        model = model_class(config)
    return model.eval()


def widen(model_class: type[Any], config: Any, state: dict[str, torch.Tensor]) -> Any:
    """The float64 model of ``config`` with the weights of ``state``; call inside true_float64."""
    model = build(model_class, config)
    model.load_state_dict({name: tensor.double() for name, tensor in state.items()}, strict=True, assign=True)
    model.tie_weights()
    return model


def run(model: Any, **inputs: Any) -> Any:
    """The model's output for ``inputs``, without a cache, every operation checked; call inside true_float64."""
    with torch.no_grad(), OnlyFloat64():
        return model(use_cache=False, **inputs) if "use_cache" not in inputs else model(**inputs)


def check_that_the_check_can_fail(model_class: type[Any], config: Any, **inputs: Any) -> None:
    """Run an ordinary float64 model, whose norms or RoPE cast to float32, and require that OnlyFloat64 refuses it.

    Raises:
        AssertionError: it was not refused, so a golden's claim to be float64 would mean nothing.
    """
    config._attn_implementation = "eager"
    model = model_class(config).double().eval()
    try:
        run(model, **inputs)
    except FloatingPointError:
        return
    raise AssertionError(f"{model_class.__name__}: a run with float32 inside was not refused")
