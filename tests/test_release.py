"""What is published: one version and date, and the Pythons that are said to be supported."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()


def test_the_version_and_its_date_are_the_same_everywhere():
    (version,) = re.findall(r'^version = "(.*)"$', PROJECT, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    first, *_ = re.findall(r"^## \[(\d.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first == (version, str(citation["date-released"]))
    assert citation["version"] == version


def test_the_workflow_runs_on_each_python_that_is_said_to_be_supported():
    run = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["run"]
    said = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert run["strategy"]["matrix"]["python"] == said
    assert f'requires-python = ">={said[0]}"' in PROJECT


def test_the_projects_address_is_the_same_everywhere():
    texts = [(ROOT / name).read_text() for name in ("CITATION.cff", "mkdocs.yml", "pyproject.toml", "CHANGELOG.md")]
    assert set(re.findall(r"github\.com/([\w-]+/[\w-]+)", "".join(texts))) == {"lightning-as/lightning-as"}
