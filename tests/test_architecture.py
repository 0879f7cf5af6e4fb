"""The house has floors: a module imports only from floors below, and has a test, a ceiling and sorted names."""

import ast
import re
from pathlib import Path

import pytest

import lightning_as
from lightning_as import strategies

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_as"

# Modules from the ground up; those of one floor do not import each other.
FLOORS = [
    {"compiled", "kernels"},
    {"law_kernels"},
    {
        "bins",
        "distance_weighted",
        "sum_tree",
        "draw",
        "gradient_bound",
        "importance_weights",
        "k_means",
        "labels",
        "passes",
        "progress",
        "ranking",
    },
    {"bin_distribution", "candidates", "instance_distribution", "losses", "uniform_in_bins"},
    {"instance_law", "loss_predictor", "smoothed_everywhere", "smoothed_where_drawn", "strategies.base"},
    {
        "strategies.adaptive",
        "strategies.gopal",
        "strategies.gradient_norm",
        "strategies.infobatch",
        "strategies.learned_filter",
        "strategies.learned_proposal",
        "strategies.loss_proportional",
        "strategies.online_batch_selection",
        "strategies.prioritized",
        "strategies.repeated_random_subset",
        "strategies.rho_loss",
        "strategies.selective_backprop",
        "strategies.static_importance",
        "strategies.stratified",
        "strategies.submodular",
        "strategies.uniform",
        "strategies.upper_bound",
    },
    {"strategies"},
    {"batch_sampler"},
    {"dataloader", "evaluation", "logits_hook", "targets"},
    {"linear_gradients"},
    {"datamodule", "image_data", "observation", "wiring"},
    {"scoring"},
    {"callback", "cards", "classifier", "irreducible", "margin_embedding", "mnist", "torchvision_data"},
    {"__init__"},
    {"experiments"},
    {"experiments.comparison", "experiments.results", "experiments.thesis"},
    {"experiments.curves", "experiments.grid", "experiments.text"},
    {"experiments.evidence", "experiments.search", "experiments.tables"},
    {"experiments.mends"},
    {
        "experiments.distribution_figures",
        "experiments.evidence_figures",
        "experiments.figures",
        "experiments.markdown",
    },
    {"experiments.evidence_markdown", "experiments.report"},
    {"experiments.evidence_report"},
    {"experiments.report_command"},
    {"experiments.measurements", "experiments.pace"},
    {"experiments.epochs_csv", "experiments.storage", "experiments.training"},
    {"experiments.study"},
    {"experiments.command"},
    {"cli"},
    {"__main__"},
]
TORCH_ONLY = 7  # floors from the ground that know nothing of Lightning


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return names


MODULES = modules()


def floor(name: str) -> int:
    return next(height for height, names in enumerate(FLOORS) if name in names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_has_a_floor():
    assert set(MODULES) == set.union(*FLOORS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_floors_below(name: str):
    for imported in imports(MODULES[name]):
        if imported.startswith("lightning_as"):
            below = imported.removeprefix("lightning_as").removeprefix(".") or "__init__"
            assert floor(below) < floor(name), imported
        if floor(name) < TORCH_ONLY:
            assert not imported.startswith(("lightning.", "torchmetrics", "torchvision")), imported


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_and_functions_stay_small(name: str):
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 40, node.name


UNTESTED = {"__init__", "__main__", "experiments", "strategies", "strategies.base"}  # but by what uses them


@pytest.mark.parametrize("name", sorted(set(MODULES) - UNTESTED))
def test_every_module_has_a_test_file(name: str):
    *folders, stem = name.split(".")
    assert (ROOT / "tests" / Path(*folders) / f"test_{stem}.py").is_file()


@pytest.mark.parametrize("module", [lightning_as, strategies])
def test_public_names_are_sorted_and_there(module: object):
    names = module.__all__  # pyright: ignore[reportAttributeAccessIssue]
    as_ruff_does = sorted(names, key=lambda name: (name.islower(), re.sub(r"\d+", lambda n: n[0].zfill(9), name)))
    assert names == as_ruff_does
    assert all(hasattr(module, name) for name in names)
