"""A topology on one machine: each tier a process under its limits, links shaped, all of it verified. Torch-free.

Means of emulating links are `LinkMeans` (netem, TUN relay, TCP proxy), means of limiting CPUs are `Limiter` (duty
cycle, control groups); `open_testbed` chooses, starts, measures and hands out a `Testbed`.
"""

from tierwise.testbed._calibration import TOLERANCE_FRAC, Calibration, LinkCalibration, TierCalibration, rtt_slack_s
from tierwise.testbed._capabilities import Capability, capabilities
from tierwise.testbed._groups import ControlGroups
from tierwise.testbed._limits import DutyLimiter, Grant, Limiter, QuotaLimiter
from tierwise.testbed._links import Availability, LinkMeans, Network
from tierwise.testbed._meter import LinkFigures
from tierwise.testbed._netem import NetemMeans
from tierwise.testbed._nodes import NODE_PROGRAM
from tierwise.testbed._process import Child, Spawner
from tierwise.testbed._tcp import ProxyMeans
from tierwise.testbed._testbed import Testbed, all_limiters, all_link_means, open_testbed, sweep
from tierwise.testbed._tun import TunMeans
from tierwise.testbed._verify import measure_link

__all__ = [
    "NODE_PROGRAM",
    "TOLERANCE_FRAC",
    "Availability",
    "Calibration",
    "Capability",
    "Child",
    "ControlGroups",
    "DutyLimiter",
    "Grant",
    "Limiter",
    "LinkCalibration",
    "LinkFigures",
    "LinkMeans",
    "NetemMeans",
    "Network",
    "ProxyMeans",
    "QuotaLimiter",
    "Spawner",
    "Testbed",
    "TierCalibration",
    "TunMeans",
    "all_limiters",
    "all_link_means",
    "capabilities",
    "measure_link",
    "open_testbed",
    "rtt_slack_s",
    "sweep",
]
