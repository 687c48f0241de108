"""The Numba backend: NumPy's arrays, and compiled kernels that give the same bits at the speed of memory.

A whole forward pass is one compiled call for each thread: `lepton_ref.backends.numba_plan` turns the program into a
table, `lepton_ref.backends.numba_step` interprets it. What has no kernel is computed by the generic form, op by op.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Kernel


class NumbaBackend(NumpyBackend):
    """NumPy's arrays with kernels that Numba compiles for this processor.

    Args:
        isa: the instruction set: "vnni", "avx2" or "plain"; None for the fastest that the processor has. All give the
            same bits.

    Raises:
        ImportError: Numba is not installed.
        ValueError: an instruction set that is unknown, or that the processor does not have.
    """

    name = "numba"

    def __init__(self, *, isa: str | None = None) -> None:
        try:
            import numba
        except ImportError as error:
            raise ImportError("backend 'numba' needs Numba: pip install 'lepton-ref[numba]'") from error
        from lepton_ref.backends.numba_dot import chosen
        from lepton_ref.backends.numba_softmax import log_softmax_at
        from lepton_ref.backends.numba_whole import Whole

        self._version = str(numba.__version__)
        self.isa = chosen(isa)
        self._whole = Whole(self.isa)
        self.kernels: Mapping[tuple[str, type], Kernel] = MappingProxyType(
            {("program", type(None)): self._whole, ("log_softmax_at", type(None)): log_softmax_at}
        )

    def __repr__(self) -> str:
        return f"NumbaBackend(numba {self._version}, {self.isa.name})"
