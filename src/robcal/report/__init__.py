"""Results as a page (`write_report`, `render_html`) and as a table for a terminal (`text_table`)."""

from robcal.report.page import render_html, write_report
from robcal.report.table import text_table

__all__ = ["render_html", "text_table", "write_report"]
