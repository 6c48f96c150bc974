"""Scenarios, load generation, records, environment, statistics; of systems it knows the abstract one. Torch-free."""

from tierwise.measure._cpus import isa, usable_cpus
from tierwise.measure._environment import Environment, Throttling, read_environment
from tierwise.measure._progress import Advance, Progress, Silent
from tierwise.measure._record import STAGES, Record, Reply, StageTime, SystemUnderTest
from tierwise.measure._scenario import Offline, Profile, ProfileName, Scenario, Server, SingleStream, profile
from tierwise.measure._summary import MIN_P99_SAMPLES, Estimate, Summary, quantile, summarise

__all__ = [
    "MIN_P99_SAMPLES",
    "STAGES",
    "Advance",
    "Environment",
    "Estimate",
    "Offline",
    "Profile",
    "ProfileName",
    "Progress",
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
    "isa",
    "profile",
    "quantile",
    "read_environment",
    "summarise",
    "usable_cpus",
]
