from thesis.printed import ACCURACY_TESTS, ARMS, BATCH_SIZES, CHOSEN_DELTAS, DELTA_GRIDS, TABLES


def test_what_the_thesis_says_of_its_tables_3_and_4_is_true_of_the_numbers_here():
    assert [*TABLES] == ["adadelta", "adam"]
    for table in TABLES.values():
        assert tuple(table) == BATCH_SIZES
        assert all(set(line.minutes) == set(ARMS) for line in table.values())
        # Of time: at 64 AS takes much more, at 1024 hardly any.
        assert all(table[64].minutes["AS"] - table[64].minutes[arm] > 0.4 for arm in ("OBS", "uniform"))
        assert all(abs(table[1024].minutes["AS"] - table[1024].minutes[arm]) < 0.1 for arm in ("OBS", "uniform"))
    # 4.4.6: with Adadelta AS beats uniform at all batch sizes, with Adam at 256 and 1024; OBS beats AS with Adam at 64.
    assert all(line.uniform < 1 for line in TABLES["adadelta"].values())
    assert {size for size, line in TABLES["adam"].items() if line.uniform < 1} == {256, 1024}
    assert [size for table in TABLES.values() for size, line in table.items() if line.OBS > 1] == [64]


def test_table_2_is_of_figures_22_and_23():
    assert {(test.optimizer, test.batch_size) for test in ACCURACY_TESTS} == {("adadelta", 256), ("adam", 1024)}
    assert all((test.equation == 89) == (test.against == "OBS") for test in ACCURACY_TESTS)


def test_the_chosen_smoothings_are_a_corner_of_each_coarse_grid():
    assert [grid.figure for grid in DELTA_GRIDS] == list(range(13, 20))
    for grid in DELTA_GRIDS:
        corner = (max(grid.delta_p), min(grid.delta_q))
        assert (corner == CHOSEN_DELTAS) == (grid.figure != 14)
