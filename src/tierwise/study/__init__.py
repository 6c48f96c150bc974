"""Campaigns, the resumable runner and the store. Reading a study needs no torch."""

from tierwise.study._campaign import Campaign, StrategySpec, campaign_names, campaign_text, load_campaign
from tierwise.study._results import CellSummary, SessionData, Strategy, StudyData, Variant, WarmUp

__all__ = [
    "Campaign",
    "CellSummary",
    "SessionData",
    "Strategy",
    "StrategySpec",
    "StudyData",
    "Variant",
    "WarmUp",
    "campaign_names",
    "campaign_text",
    "load_campaign",
]
