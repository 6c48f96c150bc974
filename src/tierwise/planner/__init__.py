"""Predicted costs, choices with their reasons, Pareto fronts. Torch-free."""

from tierwise.planner._cost import Candidate, Choice, Cost, Ranked, best_cut, predict_cut
from tierwise.planner._evidence import (
    Deployment,
    Evidence,
    Hop,
    Judged,
    LinkFigures,
    Subject,
    SubjectKind,
    joined,
)
from tierwise.planner._pareto import pareto

__all__ = [
    "Candidate",
    "Choice",
    "Cost",
    "Deployment",
    "Evidence",
    "Hop",
    "Judged",
    "LinkFigures",
    "Ranked",
    "Subject",
    "SubjectKind",
    "best_cut",
    "joined",
    "pareto",
    "predict_cut",
]
