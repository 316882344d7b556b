"""Methods x seeds → one table.

`plan` says what, `tasks` in which order; `doing` does it; `outcomes` and `summary` put it in numbers.

Example:
    >>> from robcal.comparison import load_plan, preset_names
    >>> "digits" in preset_names()
    True
    >>> load_plan("digits").labels[0]
    'Plain'
"""

from robcal.base.names import preset_names
from robcal.comparison.plan import Plan
from robcal.comparison.plan_file import load_plan, parse_plan
from robcal.comparison.study import compare, load_comparison, plan_work
from robcal.report.study_text import csv_rows, markdown_tables, text_tables, write_tables

__all__ = [
    "Plan",
    "compare",
    "csv_rows",
    "load_comparison",
    "load_plan",
    "markdown_tables",
    "parse_plan",
    "plan_work",
    "preset_names",
    "text_tables",
    "write_tables",
]
