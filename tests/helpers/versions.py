"""What older versions of Lightning do otherwise: see "Versions" in docs/works_with.md."""

import pytest
from lightning_utilities.core.imports import RequirementCache

_BEFORE_2_5 = not RequirementCache("lightning>=2.5")

LOSES_COUNT = _BEFORE_2_5
"""Resumed from a checkpoint that was saved after a batch, Lightning 2.4 has not counted that batch."""
FINDER_SHORTENS_THE_FIT = not RequirementCache("lightning>=2.5.3")
"""A learning-rate finder that is a callback takes its steps from the first epoch."""

counted = pytest.mark.skipif(LOSES_COUNT, reason="Lightning 2.4 does not count the batch that was saved after")
described = pytest.mark.skipif(_BEFORE_2_5, reason="Lightning 2.4 has no description of DataModules")
