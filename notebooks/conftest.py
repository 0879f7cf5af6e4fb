"""Notebooks run shrunken in the tests, each takes a few batches instead of whole epochs; and they are slow."""

import os

import pytest

os.environ["LIGHTNING_AS_QUICK"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every notebook as slow."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")
