"""Campaigns, the resumable runner and the store. Reading a study needs no torch."""

from tierwise.study._campaign import Campaign, StrategySpec, campaign_names, campaign_text, load_campaign
from tierwise.study._results import CellSummary, SessionData, Strategy, StudyData, Variant

__all__ = [
    "Campaign",
    "CellSummary",
    "SessionData",
    "Strategy",
    "StrategySpec",
    "StudyData",
    "Variant",
    "campaign_names",
    "campaign_text",
    "load_campaign",
]
