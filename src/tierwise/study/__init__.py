"""Campaigns, the resumable runner and the store. Reading one needs no torch; running one brings it when it builds."""

from __future__ import annotations

from pathlib import Path

from tierwise.artifact import Artifact
from tierwise.measure import Progress, Silent
from tierwise.study._answers import Answers
from tierwise.study._campaign import Campaign, StrategySpec, campaign_names, campaign_text, load_campaign
from tierwise.study._client_call import client_calls
from tierwise.study._deploy_plan import plan_deployment
from tierwise.study._deployment import (
    Deployment,
    DeploymentPlan,
    deploy_plan,
    find_deployment,
    survey_nodes,
    undeploy,
)
from tierwise.study._evidence import evidence_of
from tierwise.study._evidence_store import is_import, load_evidence, write_evidence
from tierwise.study._export import StrategyFigures, StudyFigures, VariantFigures, export_study, study_figures
from tierwise.study._import import ImportSpec, import_evidence
from tierwise.study._import_rows import ROLES
from tierwise.study._lock import locked
from tierwise.study._paths_file import adaptive_paths, write_paths
from tierwise.study._read import load_study
from tierwise.study._results import CellSummary, SessionData, Strategy, StudyData, Variant
from tierwise.study._track import track_study, track_target

__all__ = [
    "ROLES",
    "Answers",
    "Campaign",
    "CellSummary",
    "Deployment",
    "DeploymentPlan",
    "ImportSpec",
    "SessionData",
    "Strategy",
    "StrategyFigures",
    "StrategySpec",
    "StudyData",
    "StudyFigures",
    "Variant",
    "VariantFigures",
    "adaptive_paths",
    "build_study",
    "campaign_names",
    "campaign_text",
    "client_calls",
    "deploy_plan",
    "evidence_of",
    "export_study",
    "find_deployment",
    "import_evidence",
    "is_import",
    "load_campaign",
    "load_evidence",
    "load_study",
    "plan_deployment",
    "run_study",
    "study_figures",
    "survey_nodes",
    "track_study",
    "track_target",
    "undeploy",
    "write_evidence",
    "write_paths",
]


def build_study(
    campaign: Campaign,
    directory: Path,
    progress: Progress | None = None,
    *,
    cache: Path | None = None,
    on: str | None = None,
) -> tuple[Artifact, ...]:
    """Build what a study will measure, and measure no times: train, build, examine.

    `run_study` with the same campaign and directory then finds it all, and has only cuts left to make that the cost
    model chooses. Building may run on a busy machine, which measuring should not. It may be killed like `run_study`.

    Args:
        campaign: What to build.
        directory: The study's directory; made where missing.
        progress: Shows long steps.
        cache: As in `run_study`.
        on: As in `run_study`.

    Returns:
        The artifacts, each with its accuracy on the test split, in the order of the campaign.

    Raises:
        StoreError: Another process is at work in the directory, or it cannot be written.
        SpecError: A topology, chain or placement of the campaign does not exist.
        InputError: A chain cannot be built for this task.
        UnavailableError: Data or a library are missing.
    """
    with locked(directory):
        from tierwise.study._run import build_locked

        return build_locked(campaign, directory, progress or Silent(), cache or directory / "cache", on)


def run_study(
    campaign: Campaign,
    directory: Path,
    progress: Progress | None = None,
    *,
    cache: Path | None = None,
    on: str | None = None,
) -> StudyData:
    """Run a study, or go on with it: train, build, examine, deploy, measure.

    It may be killed at any moment. The same call goes on: what was built is found again, and exactly those records are
    measured that are not on the disk yet, so that none is lost and none is there twice.

    Args:
        campaign: What to do.
        directory: Where records and artifacts come to lie; made where missing. One study per directory.
        progress: Shows long steps.
        cache: Folder for downloads and trained weights, that several studies may share; ``directory/cache`` where None.
        on: ``ray`` or ``ray=ADDRESS``: variants are built as Ray tasks, on this machine or on a cluster. Its machines
            need the data and the same packages, but no shared disk. Measuring stays here.

    Returns:
        What was found.

    Raises:
        StoreError: The directory holds another study, another process is at work in it, or it cannot be written.
        SpecError: A topology, chain or placement of the campaign does not exist.
        InputError: A chain cannot be built for this task.
        EmulationError: A tier or a link came out too far from its spec.
        UnavailableError: Data, a library, or the means to emulate the topology are missing.
    """
    with locked(directory):
        # Here and not above: reading a study needs neither nodes nor tasks.
        from tierwise.study._run import run_locked

        run_locked(campaign, directory, progress or Silent(), cache or directory / "cache", on)
    return load_study(directory)
