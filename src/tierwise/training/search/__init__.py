"""Search of the scheme that a model learns best by within a budget of memory and time. Needs torch."""

from tierwise.training.search._candidates import RATIOS, Candidates, candidates
from tierwise.training.search._contribution import (
    Contributions,
    Probe,
    ProbeSet,
    Trials,
    measure_contributions,
    probe_set,
    trained_accuracy,
)
from tierwise.training.search._cost import Clock, Costs, calibrate, measure_costs, measured_cpu_s
from tierwise.training.search._evolution import Evolution, search_evolving
from tierwise.training.search._exact import search_exactly
from tierwise.training.search._finalists import Tried, best_tried, try_finalists
from tierwise.training.search._search import Found, Outcome, search_scheme, write_scheme
from tierwise.training.search._table import Budget, Choice, Depth, Slice, Table
from tierwise.training.search._task import TaskSearch, search_task

__all__ = [
    "RATIOS",
    "Budget",
    "Candidates",
    "Choice",
    "Clock",
    "Contributions",
    "Costs",
    "Depth",
    "Evolution",
    "Found",
    "Outcome",
    "Probe",
    "ProbeSet",
    "Slice",
    "Table",
    "TaskSearch",
    "Trials",
    "Tried",
    "best_tried",
    "calibrate",
    "candidates",
    "measure_contributions",
    "measure_costs",
    "measured_cpu_s",
    "probe_set",
    "search_evolving",
    "search_exactly",
    "search_scheme",
    "search_task",
    "trained_accuracy",
    "try_finalists",
    "write_scheme",
]
