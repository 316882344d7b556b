"""The commands of tools/ that look at dependencies."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tool_files import ROOT, load_tool

LOWEST = load_tool("lowest")
WEIGHT = load_tool("weight")


def test_the_lowest_versions_are_what_the_project_allows_and_no_less():
    """Against packaging's own reading: the lowest version is allowed, any before it is not."""
    entries = list(LOWEST.requirements())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*project["dependencies"]} < {*entries}
    for entry in entries:
        name, _, version = LOWEST.lowest(entry).partition("==")
        requirement = Requirement(entry)
        assert requirement.name == name
        assert requirement.specifier.contains(version)
        assert not requirement.specifier.contains(f"{Version(version).public}.dev0", prereleases=True)


@pytest.mark.parametrize("entry", ["numpy", "numpy<3", "numpy>=2,<3", "numpy==2.0"])
def test_a_requirement_without_a_plain_lower_bound_is_named(entry):
    with pytest.raises(ValueError, match=f"'{entry}' is not of the form"):
        LOWEST.lowest(entry)


def test_the_weight_counts_what_a_package_needs():
    """Of jinja2 there is one requirement, markupsafe; its files are those that its record lists."""
    assert list(WEIGHT.closure("jinja2")) == ["markupsafe"]
    [one, whole] = WEIGHT.table("jinja2")
    markupsafe = WEIGHT.distribution("markupsafe")
    on_disk = sum(place.stat().st_size for place in map(markupsafe.locate_file, markupsafe.files) if place.is_file())
    assert one == f"{on_disk / 1e6:7.1f} MB  markupsafe"
    assert whole == f"{on_disk / 1e6:7.1f} MB  in all; packages: 1"


def test_the_weight_counts_an_extra_only_where_it_is_asked_for():
    core, train, tests = (set(WEIGHT.closure("robcal", extra)) for extra in ("", "train", "test"))
    assert {"numpy", "typer", "markupsafe"} <= core
    assert not {"pytest", "robcal", "scipy"} & core
    assert core | {"torch", "scipy", "pyarrow", "matplotlib"} <= train  # the last two by extras that this one names
    assert train | {"pytest", "hypothesis"} <= tests
