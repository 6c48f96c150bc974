"""How near emulated links and tiers come to their spec: a Markdown table over all presets and available link means.

Run as ``python benchmarks/emulation.py [PRESET]...``; takes about ten seconds a row group. Nothing else should run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tierwise._errors import TierwiseError
from tierwise._units import format_rate, format_seconds
from tierwise.measure import usable_cpus
from tierwise.testbed import Calibration, all_link_means, open_testbed
from tierwise.topology import load, preset_names


def rows(preset: str, calibration: Calibration) -> list[str]:
    found = []
    for link in calibration.links:
        asked = (
            f"{format_rate(link.asked_up_bps)}, {format_rate(link.asked_down_bps)}, {format_seconds(link.asked_rtt_s)}"
        )
        got = f"{format_rate(link.up_bps or 0)}, {format_rate(link.down_bps or 0)}, {format_seconds(link.rtt_s or 0)}"
        found.append(f"| {preset} | {link.means} | {link.lower} to {link.upper} | {asked} | {got} |")
    for tier in calibration.tiers:
        asked = f"{tier.asked_slowdown:.3g} times"
        got = f"{tier.short_slowdown:.3f} short, {tier.long_slowdown:.3f} long"
        found.append(f"| {preset} | {tier.cpu_means} | {tier.tier} | {asked} | {got} |")
    return found


def main(presets: list[str]) -> None:
    print("| preset | means | link or tier | asked: up, down, round trip; slowdown | measured |")
    print("|---|---|---|---|---|")
    for preset in presets or preset_names():
        for means in all_link_means():
            if not means.availability().ok:
                continue
            with tempfile.TemporaryDirectory() as logs:
                try:
                    with open_testbed(
                        load(preset), workdir=Path(logs), machine_cpus=usable_cpus(), link_means=means.name
                    ) as bed:
                        lines = rows(preset, bed.calibration)
                except TierwiseError as error:
                    lines = [f"| {preset} | {means.name} | | | {error} |"]
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
