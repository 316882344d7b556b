"""What a release carries beside the code: citation, forms for issues, files of the source distribution."""

import re
import tomllib

import pytest
import yaml
from tool_files import ROOT

import robcal

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def _names(entry):
    return [f"{author['given-names']} {author['family-names']}" for author in entry["authors"]]


def test_the_citation_names_this_version_and_the_paper():
    """Fields that the schema of CFF 1.2.0 requires, and their agreement with the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == robcal.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["keywords"] == PROJECT["project"]["keywords"]
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["title"] == "Improving Calibration through the Relationship with Adversarial Robustness"
    assert _names(paper) == ["Yao Qin", "Xuezhi Wang", "Alex Beutel", "Ed H. Chi"]
    assert paper["url"].rpartition("/")[2] == paper["identifiers"][0]["value"].removeprefix("arXiv:") == "2006.16375"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_for_issues_have_what_github_asks_for(form):
    """Name, description and body (docs.github.com, syntax for issue forms); fields have their own id and a label."""
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content) <= {"name", "description", "body", "labels", "title"}
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert fields
    assert len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert re.fullmatch(r"[\w-]+", field["id"])
        assert field["attributes"]["label"]


def test_the_source_distribution_takes_every_file_beside_the_code():
    taken = {path.split("/")[0] for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    beside = {path.name for path in ROOT.iterdir() if path.suffix in {".md", ".cff"}}
    assert beside <= taken
    assert all((ROOT / path).exists() for path in taken)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_and_commands_of_these_pages_exist(page):
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (ROOT / link).exists()] == []
    assert set(re.findall(r"\bmake ([a-z-]+) ", text)) <= targets
