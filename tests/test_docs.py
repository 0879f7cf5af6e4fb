"""The documentation: links that hold, a reference that is whole, every example on a page; `.ci/run` builds the site."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import lightning_as

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def load(name: str, needs: str) -> ModuleType:
    """A module of the site's, which is in no package."""
    pytest.importorskip(needs)
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hooks() -> ModuleType:
    return load("hooks", "mkdocs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_hold_in_the_checkout_and_so_on_github(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_tests_that_are_named_exist():
    there = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for page in PAGES:
        assert set(re.findall(r"test_\w+\.py", page.read_text())) <= there, page.name


def test_the_readme_is_short_and_has_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert {"pip install . && lightning-as fit", 'pip install ".[test]" && pytest'} <= set(lines)


def test_every_example_is_on_one_page():
    shown = [name for page in PAGES for name in re.findall(r'^--8<-- "examples/(\w+\.py)"$', page.read_text(), re.M)]
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def places(nav: Any) -> list[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in places(part)]


def test_the_reference_has_every_public_name_once(hooks: ModuleType):
    pages = hooks.reference((ROOT / "docs" / "api.md").read_text())
    names = re.findall(r"^::: lightning_as\.(\w+)$", "\n".join(pages.values()), re.MULTILINE)
    assert sorted(names) == sorted(lightning_as.__all__)
    nav = places(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert [page for page in nav if page.startswith("api/")] == list(pages)


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("how.md", "methods.md#uniform", "methods.md#uniform"),
        ("how.md", "images/how.svg", "images/how.svg"),
        ("trades/text.md", "../works_with.md", "../works_with.md"),
        ("evidence.md", "../benchmarks/results/budget/report.md", "benchmarks/results/budget/report.md"),
        ("evidence.md", "../thesis/grid.py", "https://x.y/blob/main/thesis/grid.py"),
        ("trades/text.md", "../../examples", "https://x.y/tree/main/examples"),
        ("index.md", "docs/methods.md", "methods.md"),
        ("trades/text.md", "../../README.md#install", "../index.md#install"),
        ("api/strategies.md", "methods.md", "../methods.md"),
        ("benchmarks/results/budget/report.md", "imbalanced.png", "imbalanced.png"),
        ("how.md", "https://a.b/methods.md", "https://a.b/methods.md"),
        ("how.md", "#the-floor", "#the-floor"),
        ("how.md", "nowhere.md", "nowhere.md"),
    ],
)
def test_links_become_those_of_the_site_or_to_the_repository(hooks: ModuleType, uri: str, link: str, expected: str):
    brought = {"benchmarks/results/budget/report.md", "benchmarks/results/budget/imbalanced.png", "images/how.svg"}
    site = {"index.md", "how.md", "methods.md", "works_with.md"} | brought
    assert hooks.with_links(f"see [it]({link}).", uri, site, "https://x.y") == f"see [it]({expected})."


@pytest.mark.parametrize(
    ("role", "target", "shown"),
    [
        (":class:`Bins`", "lightning_as.Bins", "Bins"),
        (":func:`lightning_as.hand_over`", "lightning_as.hand_over", "hand_over"),
        (":meth:`Strategy.start`", "lightning_as.Strategy.start", "Strategy.start"),
        (":meth:`start`", "lightning_as.strategies.base.Strategy.start", "start"),
        (":mod:`lightning_as.core.points`", "lightning_as.core.points", "points"),
    ],
)
def test_roles_become_links(role: str, target: str, shown: str):
    roles = load("roles", "griffe")
    expected = f'as <autoref optional identifier="{target}"><code>{shown}</code></autoref> says'
    assert roles.with_links(f"as {role} says", "lightning_as.strategies.base.Strategy") == expected


def test_no_other_role_is_used():
    known = re.compile(r":(class|meth|func|attr|mod|data):`~?[\w.]+`")
    for path in (ROOT / "lightning_as").rglob("*.py"):
        for role in re.findall(r":\w+:`[^`]*`", path.read_text()):
            assert known.fullmatch(role), f"{path.name}: {role}"
