"""Settings of the documentation site, which `make site` builds without a network."""

import os
import re
import sys
import warnings
from pathlib import Path

from sphinx.domains.python import PyObject

import robcal

sys.path.insert(0, str(Path(__file__).parent))
import public_types

os.environ.setdefault("KERAS_BACKEND", "torch")

project = "robcal"
author = "the robcal authors"
version = release = robcal.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["gallery/*.ipynb"]
default_role = "code"  # docstrings write names as `name`

html_theme = "furo"
html_title = "robcal"
html_static_path = ["_static"]
html_css_files = ["robcal.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False

myst_heading_anchors = 3
autosummary_ignore_module_all = False
autosummary_imported_members = True
warnings.filterwarnings("ignore", module=r"(lightning|torch|keras)\b")  # of each other, in what examples print

autosummary_context = {"public": sorted(robcal.__all__)}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

#: Types that signatures name as the source does.
ARRAYS = "AnyArray AnyFloatArray Float32Array FloatArray Int64Array IntArray StringArray npt.ArrayLike"
autodoc_type_aliases = {name: name for name in ARRAYS.split()}

# Every cross reference is resolved, but for types of other packages: their pages are not at hand without a network.
nitpicky = True
PACKAGES = "collections lightning nn np npt numpy os pathlib rich sklearn torch transformers"
nitpick_ignore = [("py:class", name) for name in (*ARRAYS.split(), "TypeAliasForwardRef", "Augment")]
nitpick_ignore_regex = [(r"py:\w+", rf"({'|'.join(PACKAGES.split())})\..*")]

next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "image_scrapers": (),
    "reset_modules": (),
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "download_all_examples": False,
}


def _linked(row):
    """Let the modules that a row of a table names lead to their pages."""
    return re.sub(r"`(robcal[\w.]*)`", r"[`\1`](generated/\1.rst)", row)


def adapt(app, docname, source):
    """Give bare tables, as `robcal compare` writes them, a title; let pages of evidence be found by links alone."""
    if docname.startswith("evidence/"):
        title = "" if source[0].startswith("# ") else f"# Table: {Path(docname.removesuffix('/table')).name}\n\n"
        source[0] = f"---\norphan: true\n---\n{title}{source[0]}"
    if docname == "api":
        table, fence, listing = source[0].partition("```{eval-rst}")
        source[0] = re.sub(r"^\|.*", lambda row: _linked(row[0]), table, flags=re.MULTILINE) + fence + listing
    source[0] = re.sub(r"\[[\w/-]+\.md\]\(([\w/.-]+\.md)\)", r"[](\1)", source[0])  # the title of the page it leads to
    source[0] = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](gallery/\1.rst)", source[0])


def hide_colons(app, what, name, obj, options, lines):
    """Keep napoleon from taking for a type what stands before a colon in what is returned or in an attribute's line."""
    for k, line in enumerate(lines):
        if (k == 0 and what in ("attribute", "property", "data")) or lines[k - 1].strip() in ("Returns:", "Yields:"):
            lines[k] = line.replace(":", "\0")


def show_colons(app, what, name, obj, options, lines):
    """Undo that; and |x| is an absolute value."""
    for k, line in enumerate(lines):
        lines[k] = re.sub(r"(?<!`)\|(\w[^|`]*)\|", r"\|\1\|", line.replace("\0", ":"))


def skip_requests(app, what, name, obj, skip, options):
    """Leave out the methods that scikit-learn makes for the routing of metadata; they refer to its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def plain_defaults(app, what, name, obj, options, signature, returned):
    """Write defaults such as <factory> and <function keep_batch> as names: Sphinx reads signatures as Python."""
    return re.sub(r"<(?:function )?(\w+)[^>]*>", r"\1", signature or "") or None, returned


def setup(app):
    """Connect these."""
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("autodoc-skip-member", skip_requests)
    public_types.write(Path(app.srcdir) / "api.md", Path(app.srcdir) / "generated" / "types.rst")
    app.connect("source-read", adapt)
    app.connect("autodoc-process-docstring", hide_colons, priority=100)  # before napoleon, which has 500
    app.connect("autodoc-process-docstring", show_colons, priority=900)
