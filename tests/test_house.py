"""The house: packages that import only downwards, small files with tests of their own, and the public names."""

import ast
import importlib
import importlib.metadata
import re
from graphlib import TopologicalSorter
from pathlib import Path
from unittest.mock import Mock

import pytest

import lightning_as
from lightning_as import strategies

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_as"
# What each package may import beside itself.
BELOW = {
    "core": set(),
    "losses": {"core"},
    "strategies": {"core", "losses"},
    "models": {"core", "losses"},
    "data": {"core", "losses", "strategies"},
    "plugin": {"core", "losses", "strategies", "data"},
    "comparison": {"core", "losses", "strategies", "data", "plugin"},
    "report": {"core", "losses", "strategies", "data", "plugin"},
    "__init__": {"core", "losses", "strategies", "models", "data", "plugin", "comparison", "report"},
    "cli": {"core", "losses", "strategies", "models", "data", "plugin", "comparison", "report"},
    "__main__": {"cli"},
}
NOT_IN_CORE = {"lightning", "torchvision", "torchmetrics", "pathlib", "io", "os", "shutil", "tempfile", "thesis"}
# Files without tests of their own: what uses them tests them.
UNTESTED = {
    "__main__",
    "core.compiled_doubts",
    "core.uniform_in_bins",
    "losses.entries",
    "plugin.arguments",
    "plugin.fit",
    "strategies.base",
}
MODULES = {
    re.sub(r"\.__init__$", "", ".".join(path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str) -> set[str]:
    """What a module imports, at its top or later; of ours without the package's name."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {module for module in modules if module.removeprefix("lightning_as.") in MODULES}
            found |= ours or {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module.removeprefix("lightning_as.").replace("lightning_as", "__init__") for module in found}


def test_imports_go_downwards_and_in_no_circle():
    graph = {name: imports(name) & set(MODULES) for name in MODULES}
    for name, imported in graph.items():
        own = name.partition(".")[0]
        packages = {module.partition(".")[0] for module in imported} - {own}
        assert packages <= BELOW[own], f"{name} imports {packages - BELOW[own]}"
        others = {module.partition(".")[0] for module in imports(name) - imported}
        assert not others & {"thesis", "tests", "benchmarks"}, name
        assert own != "core" or not others & NOT_IN_CORE, f"{name} imports {others & NOT_IN_CORE}"
    list(TopologicalSorter(graph).static_order())  # which raises for a circle


def test_files_and_functions_stay_small_and_have_tests():
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= 300, name
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                assert (node.end_lineno or 0) - first.lineno < 40, f"{name}: {node.name}"
        *folders, stem = name.split(".")
        tested = name in UNTESTED or path.name == "__init__.py"
        assert tested or (ROOT / "tests" / Path(*folders) / f"test_{stem.strip('_')}.py").is_file(), name


def test_public_names_are_documented_and_in_the_list():
    assert all(getattr(lightning_as, name).__doc__ for name in lightning_as.__all__)
    listed = re.findall(r"^\| `(\w+)` \| [A-Z].*\. \|$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(lightning_as.__all__)
    assert set(strategies.__all__) < set(lightning_as.__all__)


def test_the_wheel_has_the_package_alone_and_its_version_which_needs_no_installation(monkeypatch: pytest.MonkeyPatch):
    project = (ROOT / "pyproject.toml").read_text()
    assert '[tool.hatch.build.targets.wheel]\npackages = ["lightning_as"]\n' in project
    assert lightning_as.__version__ in (*re.findall(r'^version = "(.*)"$', project, re.MULTILINE), "0+unknown")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", Mock(side_effect=importlib.metadata.PackageNotFoundError))
        assert importlib.reload(lightning_as).__version__ == "0+unknown"
    importlib.reload(lightning_as)


def test_tensors_depend_on_no_default_of_torch():
    """Of device and type; tensors with a template, and the models, as all of torch's own, follow theirs."""
    typed = {"empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"}
    made = typed | {"arange", "as_tensor", "randint", "randperm"}
    for name in MODULES:
        for call in ast.walk(TREES[name]):
            if not isinstance(call, ast.Call) or name.startswith("models."):
                continue
            function, given = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
            if function in {f"torch.{creation}" for creation in made}:
                needed = {"device"} | ({"dtype"} if function.removeprefix("torch.") in typed else set())
                assert needed <= given, f"{name}, line {call.lineno}: {function} without {needed - given}"
