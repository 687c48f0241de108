"""The Numba backend: NumPy's arrays, and compiled kernels that give the same bits at the speed of memory.

A whole forward pass is one compiled call for each thread: `lepton_ref.backends.numba_plan` turns the program into a
table, `lepton_ref.backends.numba_step` interprets it. What is asked of one op goes to the same kernels one by one:
`lepton_ref.backends.numba_ops`. What has no kernel is computed by the generic form.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Kernel, checked_threads


class NumbaBackend(NumpyBackend):
    """NumPy's arrays with kernels that Numba compiles for this processor.

    Args:
        isa: the instruction set: "vnni", "avx2" or "plain"; None for the fastest that the processor has. All give the
            same bits.
        threads: how many compute ops that are called on their own, and the runs of models that are loaded without
            `threads=`; None for all cores that the process may use.

    Raises:
        ImportError: Numba is not installed.
        TypeError: threads that is no integer.
        ValueError: an instruction set that is unknown, or that the processor does not have; fewer than one thread.
        RuntimeError: an x86 processor without F16C.
    """

    name = "numba"

    def __init__(self, *, isa: str | None = None, threads: int | None = None) -> None:
        try:
            import numba
        except ImportError as error:
            raise ImportError("backend 'numba' needs Numba: pip install 'lepton-ref[numba]'") from error
        from lepton_ref.backends.numba_dot import chosen, require_halves
        from lepton_ref.backends.numba_op_attention import attention_kernel
        from lepton_ref.backends.numba_op_linear import LinearKernel, storage_classes
        from lepton_ref.backends.numba_ops import RowKernels, declining
        from lepton_ref.backends.numba_softmax import log_softmax_at
        from lepton_ref.backends.numba_threads import Teams
        from lepton_ref.backends.numba_whole import Whole

        self._version = str(numba.__version__)
        require_halves()
        self.isa = chosen(isa)
        teams, none = Teams(checked_threads(threads)), type(None)
        linear = LinearKernel(self.isa, teams).call
        self.kernels: Mapping[tuple[str, type], Kernel] = MappingProxyType(
            {
                ("program", none): Whole(self.isa, teams),
                ("attention", none): attention_kernel(teams),
                ("log_softmax_at", none): declining(log_softmax_at),
                **{(name, none): kernel for name, kernel in RowKernels(teams).by_name.items()},
                **{("linear", storage): linear for storage in storage_classes()},
            }
        )

    def __repr__(self) -> str:
        return f"NumbaBackend(numba {self._version}, {self.isa.name})"
