"""The kernel of whole programs: it plans a model once, packs its weights, and runs it."""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_dot import Isa
from lepton_ref.backends.numba_embed import SERVED
from lepton_ref.backends.numba_panels import KINDS, Panels, pack
from lepton_ref.backends.numba_panels_real import pack_real
from lepton_ref.backends.numba_planner import Packed, Planner
from lepton_ref.backends.numba_rounding import FORMATS
from lepton_ref.backends.numba_runner import Runner
from lepton_ref.backends.numba_store import pack_all, stored_panels
from lepton_ref.backends.numba_threads import Team, Teams, Turn


class Whole:
    """A backend's kernel under ("program", NoneType).

    Args:
        isa: the instruction set.
        teams: the threads, by how many a run asks for.
    """

    def __init__(self, isa: Isa, teams: Teams) -> None:
        self.isa, self.teams = isa, teams
        self.turn = Turn()

    def __call__(self, run: Any, program: Any) -> Any:
        """The output of the program's last op; NotImplemented where no op of it has a kernel."""
        memo, cache = run.memo, run.cache
        if "numba: none" in memo:
            return NotImplemented
        direct = cache is None or None not in [cache.addresses(layer) for layer in _firsts(memo, program)]
        team = self.teams.of(run.threads)
        key = f"numba: {self.isa.name}, {team.size} threads, direct {direct}"
        if key not in memo:
            with run.generic(), self.turn.lock():  # two threads that come first at the same time pack the weights once
                if key not in memo and not self._planned(run, program, key, team, direct):
                    return NotImplemented
        runner: Runner = memo[key]
        memo["computed"] = runner.computed
        return runner.run(run)

    def _planned(self, run: Any, program: Any, key: str, team: Team, direct: bool) -> bool:
        """Put the program's runner into the run's memo; False where no op has a kernel."""
        if not all(_computes(run.precision.at(op.name)) for op in program.ops):
            run.memo["numba: none"] = True
            return False
        plan = Planner(program, run.precision, self._panels(run, program), direct=direct).run()
        run.memo[key] = Runner(run, program, plan, isa=self.isa, team=team)
        return True

    packs = True
    """Whether it keeps packed matrices where a run's memo has a place for them under "pack"."""

    def _panels(self, run: Any, program: Any) -> dict[tuple[str, str], Packed]:
        """The matrices of linear ops, packed, by name and by what they multiply."""
        known: dict[tuple[str, str], Packed | None] = run.memo.setdefault("panels", {})
        linear = [op for op in program.ops if op.kind == "linear"]
        wanted = {(op.weights["w"], run.precision.at(op.name).operands): run.weights[op.weights["w"]] for op in linear}
        missing = {which: weight for which, weight in wanted.items() if which not in known}
        if missing:
            place = run.memo.get("pack")
            panels = pack_all(missing, packed) if place is None else stored_panels(missing, packed, place)
            for which, matrix in panels.items():
                known[which] = None if matrix is None else _described(matrix, wanted[which], which[1])
        return {which: matrix for which, matrix in known.items() if matrix is not None}


def _described(matrix: Panels, weight: Any, operands: str) -> Packed:
    table = matrix.kind in SERVED and KINDS.get(weight.format) == matrix.kind
    return Packed(matrix, integer=operands in INTEGERS, table=table)


def _firsts(memo: dict[str, Any], program: Any) -> list[int]:
    """The first layer of each window, whose layout stands for the others'."""
    if "firsts" not in memo:
        windows = [kept.window for kept in program.caches()]
        memo["firsts"] = [windows.index(window) for window in dict.fromkeys(windows)]
    found: list[int] = memo["firsts"]
    return found


INTEGERS = ("w8a8", "w4a8")
"""Operands under which integers are multiplied."""


def packed(weight: Any, operands: str) -> Any:
    """The weight as linear layers multiply it under these operands, in panels; None where there is no kernel."""
    if operands in INTEGERS:
        return pack(weight, operands)
    return pack_real(weight) if operands == "stored" else None


def _computes(how: Any) -> bool:
    """Whether the precision proves roundings to a format that kernels have."""
    return bool(how.proven and how.machine is None and how.accumulate == "float64" and how.activations in FORMATS)
