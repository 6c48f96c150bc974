"""Predicted costs, choices with their reasons, Pareto fronts, and decisions from evidence. Torch-free."""

from tierwise.planner._compare import Comparison, Contrast, Figures, Tests
from tierwise.planner._cost import Candidate, Choice, Cost, Part, Ranked, best_cut, predict_cut, predict_parts
from tierwise.planner._cuts import best_cuts
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
from tierwise.planner._fit import Violation
from tierwise.planner._links import LinkCheck, Region, Sweep, check_links, link_s
from tierwise.planner._need import AccuracyDrop, Need, Quantity
from tierwise.planner._pareto import pareto
from tierwise.planner._recommend import Excluded, Recommendation, Relaxation, recommend
from tierwise.planner._table import Decision, decision_table
from tierwise.planner._way import (
    Message,
    Observed,
    Way,
    accurate_way,
    crossovers,
    fastest_way,
    fit_message,
    predict_way,
)

__all__ = [
    "AccuracyDrop",
    "Candidate",
    "Choice",
    "Comparison",
    "Contrast",
    "Cost",
    "Decision",
    "Deployment",
    "Evidence",
    "Excluded",
    "Figures",
    "Hop",
    "Judged",
    "LinkCheck",
    "LinkFigures",
    "Message",
    "Need",
    "Observed",
    "Part",
    "Quantity",
    "Ranked",
    "Recommendation",
    "Region",
    "Relaxation",
    "Subject",
    "SubjectKind",
    "Sweep",
    "Tests",
    "Violation",
    "Way",
    "accurate_way",
    "best_cut",
    "best_cuts",
    "check_links",
    "crossovers",
    "decision_table",
    "fastest_way",
    "fit_message",
    "joined",
    "link_s",
    "pareto",
    "predict_cut",
    "predict_parts",
    "predict_way",
    "recommend",
]
