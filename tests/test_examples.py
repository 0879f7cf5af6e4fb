"""The examples: what they change in a user's code is little, and marked; each runs alone."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MARK = "  # adaptive sampling"
TOLD_BY_THE_MODULE = {"gan.py", "contrastive.py"}  # losses that nobody else can tell


def packages(path: Path) -> set[str]:
    """What an example imports that is not of Python's own."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lightning_as"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_few_lines_are_changed_none_in_the_module_and_all_are_marked(path: Path):
    lines, tree = path.read_text().splitlines(), ast.parse(path.read_text())
    marked = {number for number, line in enumerate(lines, 1) if line.endswith(MARK)}
    ours = {"plugin"} | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "lightning_as"
        for alias in node.names
    }
    used = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ours}
    assert used <= marked
    assert 2 <= len(marked) <= 6
    modules = [part for part in tree.body if isinstance(part, ast.ClassDef) and "LightningModule" in ast.dump(part)]
    inside = {number for part in modules for number in range(part.lineno, (part.end_lineno or 0) + 1)}
    assert modules
    assert bool(inside & marked) == (path.name in TOLD_BY_THE_MODULE)


def test_the_list_is_whole_and_the_extra_has_what_is_imported():
    listed = re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]
    project = (ROOT / "pyproject.toml").read_text()
    wanted = "".join(re.findall(r"^(?:dependencies|examples) = \[(.*?)^\]", project, re.M | re.S))
    assert set.union(*map(packages, EXAMPLES)) <= set(re.findall(r'"(\w+)', wanted))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_trains_and_warns_of_nothing(path: Path, tmp_path: Path):
    for package in packages(path):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: `pip install ".[examples]"`')
    # One thread each, as several run at once, and no network.
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^trained; .*\d", done.stdout, re.M), done.stdout
    assert not re.search(r"lightning_as.(core|losses|strategies|data|plugin)\b", done.stderr), done.stderr
