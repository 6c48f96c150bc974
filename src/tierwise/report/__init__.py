"""Records to tables, charts, and one self-contained HTML page. Torch-free; chart libraries load only to write it."""

from tierwise.report._page import write_report, write_training_report
from tierwise.report._rows import DecisionRow, Share, decision_rows
from tierwise.report._text import text_table
from tierwise.report._training import SchemeRow, scheme_rows

__all__ = [
    "DecisionRow",
    "SchemeRow",
    "Share",
    "decision_rows",
    "scheme_rows",
    "text_table",
    "write_report",
    "write_training_report",
]
