"""Records to tables, charts, and one self-contained HTML page. Torch-free; chart libraries load only to write it."""

from tierwise.report._page import write_report
from tierwise.report._rows import DecisionRow, Share, decision_rows
from tierwise.report._text import text_table

__all__ = ["DecisionRow", "Share", "decision_rows", "text_table", "write_report"]
