"""Results as a page (`write_report`, `render_html`) and as a table (`text_table`, `markdown_table`, `csv_table`)."""

from robcal.report.page import render_html, write_report
from robcal.report.table import csv_table, markdown_table, text_table

__all__ = ["csv_table", "markdown_table", "render_html", "text_table", "write_report"]
