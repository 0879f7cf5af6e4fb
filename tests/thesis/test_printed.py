from thesis.printed import ACCURACY_TESTS, ARMS, BATCH_SIZES, CHOSEN_DELTAS, DELTA_GRIDS, TABLES


def test_what_the_thesis_says_of_its_numbers_is_true_of_those_here():
    for table in TABLES.values():
        assert tuple(table) == BATCH_SIZES
        assert all(set(line.minutes) == set(ARMS) for line in table.values())
        # Of time: at 64 AS takes much more, at 1024 hardly any.
        assert all(table[64].minutes["AS"] - table[64].minutes[arm] > 0.4 for arm in ("OBS", "uniform"))
        assert all(abs(table[1024].minutes["AS"] - table[1024].minutes[arm]) < 0.1 for arm in ("OBS", "uniform"))
    # 4.4.6: with Adadelta AS beats uniform at all batch sizes, with Adam at 256 and 1024; OBS beats AS with Adam at 64.
    better = {(name, size) for name, table in TABLES.items() for size, line in table.items() if line.uniform < 1}
    assert better == {("adadelta", 64), ("adadelta", 256), ("adadelta", 1024), ("adam", 256), ("adam", 1024)}
    assert [size for table in TABLES.values() for size, line in table.items() if line.OBS > 1] == [64]
    assert all((test.equation == 89) == (test.against == "OBS") for test in ACCURACY_TESTS)
    chosen = {grid.figure for grid in DELTA_GRIDS if (max(grid.delta_p), min(grid.delta_q)) == CHOSEN_DELTAS}
    assert chosen == {13, 15, 16, 17, 18, 19}
