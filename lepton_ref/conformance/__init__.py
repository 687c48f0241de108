"""The suite that a backend's author runs: equal bits where an op is rounded once, a proven bound where it is not.

`run(backend)` tries everything and reports; the `check_*` functions of `checks`, listed in `CHECKS`, are for tests of
one's own. What fails is kept in a capsule, which `replay` runs again. `strategies` has examples for Hypothesis.
"""

from lepton_ref.conformance.capsule import Capsule, load_capsule
from lepton_ref.conformance.case import Case
from lepton_ref.conformance.checks import CHECKS
from lepton_ref.conformance.claim import judge_op
from lepton_ref.conformance.claims import CLAIMS
from lepton_ref.conformance.outcome import ConformanceError, Failure, Outcome
from lepton_ref.conformance.report import Report
from lepton_ref.conformance.suite import run
from lepton_ref.conformance.trying import EXAMPLES, attempt, replay
from lepton_ref.conformance.verdict import Verdict

__all__ = [
    "CHECKS",
    "CLAIMS",
    "EXAMPLES",
    "Capsule",
    "Case",
    "ConformanceError",
    "Failure",
    "Outcome",
    "Report",
    "Verdict",
    "attempt",
    "judge_op",
    "load_capsule",
    "replay",
    "run",
]
