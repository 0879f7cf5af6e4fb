import pytest

from thesis.grid import Cell
from thesis.pace import duration, left


def cell(arm: str, batch_size: int) -> Cell:
    return Cell("thesis", arm, "adam", batch_size, "full", 0)


def test_it_goes_by_the_most_similar_cells_that_are_known():
    known = [
        (cell("AS", 64), 10.0),
        (cell("AS", 64), 30.0),
        (cell("AS", 64), 12.0),
        (cell("OBS", 64), 40.0),
        (cell("AS", 256), 3.0),
    ]
    assert left([cell("AS", 64)], known) == 12
    assert left([cell("OBS", 64)], known) == 40
    assert left([cell("uniform", 64)], known) == 21  # the median of those with this batch size
    assert left([cell("uniform", 1024)], known) == 12  # of all
    assert left([cell("AS", 256), cell("OBS", 64)], known) == 43
    assert left([], known) == 0
    assert left([cell("AS", 64)], []) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (29, "29 s"), (31, "1 min"), (3570, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_a_duration_is_said_as_a_person_would(seconds: float, text: str):
    assert duration(seconds) == text
