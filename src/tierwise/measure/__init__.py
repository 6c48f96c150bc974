"""Scenarios, load generation, records, environment, statistics; of systems it knows the abstract one. Torch-free."""

from tierwise.measure._blocked import Blocked, Samples, block
from tierwise.measure._blocks import Block, Query, plan_round
from tierwise.measure._bootstrap import DRAWS, Bootstrap, Interval, bca, bootstrap
from tierwise.measure._comparison import Friedman, Pair, RankTest, friedman, holm, kruskal_conover, wilcoxon_p
from tierwise.measure._cpus import isa, usable_cpus
from tierwise.measure._effect import (
    Band,
    Delta,
    McNemar,
    Verdict,
    accuracy_difference,
    cliffs_delta,
    compare_ratio,
    f1_difference,
    mcnemar,
    newcombe,
)
from tierwise.measure._energy import Energy, Power, modelled_energy
from tierwise.measure._environment import Environment, Throttling, read_environment
from tierwise.measure._load import Turn, class_of, run_block, run_cold
from tierwise.measure._metered import Rest, Wattmeter
from tierwise.measure._meters import InaMeter, Meter, ModelledMeter, NvmlMeter, RaplMeter, Running, open_meters
from tierwise.measure._progress import Advance, Progress, Silent
from tierwise.measure._record import STAGES, Record, Reply, StageTime, SystemUnderTest
from tierwise.measure._scenario import Offline, Profile, ProfileName, Scenario, Server, SingleStream, profile
from tierwise.measure._summary import MIN_P99_SAMPLES, Estimate, Summary, quantile, summarise
from tierwise.measure._warmup import SETTLED_FRAC, WarmUp, warm_up

__all__ = [
    "DRAWS",
    "MIN_P99_SAMPLES",
    "SETTLED_FRAC",
    "STAGES",
    "Advance",
    "Band",
    "Block",
    "Blocked",
    "Bootstrap",
    "Delta",
    "Energy",
    "Environment",
    "Estimate",
    "Friedman",
    "InaMeter",
    "Interval",
    "McNemar",
    "Meter",
    "ModelledMeter",
    "NvmlMeter",
    "Offline",
    "Pair",
    "Power",
    "Profile",
    "ProfileName",
    "Progress",
    "Query",
    "RankTest",
    "RaplMeter",
    "Record",
    "Reply",
    "Rest",
    "Running",
    "Samples",
    "Scenario",
    "Server",
    "Silent",
    "SingleStream",
    "StageTime",
    "Summary",
    "SystemUnderTest",
    "Throttling",
    "Turn",
    "Verdict",
    "WarmUp",
    "Wattmeter",
    "accuracy_difference",
    "bca",
    "block",
    "bootstrap",
    "class_of",
    "cliffs_delta",
    "compare_ratio",
    "f1_difference",
    "friedman",
    "holm",
    "isa",
    "kruskal_conover",
    "mcnemar",
    "modelled_energy",
    "newcombe",
    "open_meters",
    "plan_round",
    "profile",
    "quantile",
    "read_environment",
    "run_block",
    "run_cold",
    "summarise",
    "usable_cpus",
    "warm_up",
    "wilcoxon_p",
]
