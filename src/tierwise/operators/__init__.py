"""Operators: a model goes in, a variant comes out. Chains with a checked order, built once and kept as artifacts."""

from tierwise.operators._apply import apply, resolve
from tierwise.operators._bottleneck import Bottleneck
from tierwise.operators._build import build
from tierwise.operators._coverage import audit_coverage, optimised
from tierwise.operators._crossing import Crossing
from tierwise.operators._distill import Distill
from tierwise.operators._early_exit import EarlyExit
from tierwise.operators._filter import Filter
from tierwise.operators._identity import Identity
from tierwise.operators._lesson import Lesson
from tierwise.operators._partition import Partition, partition_cuts
from tierwise.operators._prune import Prune
from tierwise.operators._qat import QAT
from tierwise.operators._spec import OPERATORS, OperatorSpec, chain_text, check_chain, parse_chain
from tierwise.operators._static_ptq import StaticPTQ
from tierwise.operators._work import ChooseCuts, Context, Stage, Work

__all__ = [
    "OPERATORS",
    "QAT",
    "Bottleneck",
    "ChooseCuts",
    "Context",
    "Crossing",
    "Distill",
    "EarlyExit",
    "Filter",
    "Identity",
    "Lesson",
    "OperatorSpec",
    "Partition",
    "Prune",
    "Stage",
    "StaticPTQ",
    "Work",
    "apply",
    "audit_coverage",
    "build",
    "chain_text",
    "check_chain",
    "optimised",
    "parse_chain",
    "partition_cuts",
    "resolve",
]
