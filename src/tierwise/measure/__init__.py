"""Scenarios, load generation, records, environment, statistics; knows only an abstract system under test. Torch-free."""

from tierwise.measure._cpus import isa, usable_cpus
from tierwise.measure._environment import Environment, Throttling, read_environment
from tierwise.measure._progress import Advance, Progress, Silent
from tierwise.measure._record import STAGES, Record, Reply, StageTime, SystemUnderTest

__all__ = [
    "STAGES",
    "Advance",
    "Environment",
    "Progress",
    "Record",
    "Reply",
    "Silent",
    "StageTime",
    "SystemUnderTest",
    "Throttling",
    "isa",
    "read_environment",
    "usable_cpus",
]
