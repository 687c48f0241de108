"""The table of block formats. A new one is a file beside this one, and its name here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.iq1_m import IQ1_M
from lepton_ref.storage.iq1_s import IQ1_S
from lepton_ref.storage.iq2_s import IQ2_S
from lepton_ref.storage.iq2_xs import IQ2_XS
from lepton_ref.storage.iq2_xxs import IQ2_XXS
from lepton_ref.storage.iq3_s import IQ3_S
from lepton_ref.storage.iq3_xxs import IQ3_XXS
from lepton_ref.storage.iq4_nl import IQ4_NL
from lepton_ref.storage.iq4_xs import IQ4_XS
from lepton_ref.storage.mxfp4 import MXFP4
from lepton_ref.storage.nvfp4 import NVFP4
from lepton_ref.storage.q1_0 import Q1_0
from lepton_ref.storage.q2_0 import Q2_0
from lepton_ref.storage.q2_k import Q2_K
from lepton_ref.storage.q3_k import Q3_K
from lepton_ref.storage.q4_0 import Q4_0
from lepton_ref.storage.q4_1 import Q4_1
from lepton_ref.storage.q4_k import Q4_K
from lepton_ref.storage.q5_0 import Q5_0
from lepton_ref.storage.q5_1 import Q5_1
from lepton_ref.storage.q5_k import Q5_K
from lepton_ref.storage.q6_k import Q6_K
from lepton_ref.storage.q8_0 import Q8_0
from lepton_ref.storage.q8_1 import Q8_1
from lepton_ref.storage.q8_k import Q8_K
from lepton_ref.storage.tq1_0 import TQ1_0
from lepton_ref.storage.tq2_0 import TQ2_0

_ALL: tuple[BlockFormat, ...] = (
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1,
    Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K,
    TQ1_0, TQ2_0, Q1_0, Q2_0, MXFP4, NVFP4,
    IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS,
)  # fmt: skip

FORMATS: Mapping[str, BlockFormat] = MappingProxyType({block.name: block for block in _ALL})
"""Name → block format."""
