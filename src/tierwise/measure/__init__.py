"""Scenarios, load generation, records, environment, statistics; of systems it knows the abstract one. Torch-free."""

from tierwise.measure._blocks import Block, Query, plan_round
from tierwise.measure._cpus import isa, usable_cpus
from tierwise.measure._environment import Environment, Throttling, read_environment
from tierwise.measure._load import Turn, class_of, run_block, run_cold
from tierwise.measure._progress import Advance, Progress, Silent
from tierwise.measure._record import STAGES, Record, Reply, StageTime, SystemUnderTest
from tierwise.measure._scenario import Offline, Profile, ProfileName, Scenario, Server, SingleStream, profile
from tierwise.measure._summary import MIN_P99_SAMPLES, Estimate, Summary, quantile, summarise
from tierwise.measure._warmup import SETTLED_FRAC, WarmUp, warm_up

__all__ = [
    "MIN_P99_SAMPLES",
    "SETTLED_FRAC",
    "STAGES",
    "Advance",
    "Block",
    "Environment",
    "Estimate",
    "Offline",
    "Profile",
    "ProfileName",
    "Progress",
    "Query",
    "Record",
    "Reply",
    "Scenario",
    "Server",
    "Silent",
    "SingleStream",
    "StageTime",
    "Summary",
    "SystemUnderTest",
    "Throttling",
    "Turn",
    "WarmUp",
    "class_of",
    "isa",
    "plan_round",
    "profile",
    "quantile",
    "read_environment",
    "run_block",
    "run_cold",
    "summarise",
    "usable_cpus",
    "warm_up",
]
