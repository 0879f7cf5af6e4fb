"""What spares the tests of the page most of its time."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn."""
    monkeypatch.setattr("lightning_as.report.page.as_svg", lambda figure, described: "<svg></svg>")
