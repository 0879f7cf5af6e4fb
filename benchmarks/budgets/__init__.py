"""The parts of ``benchmarks/budget.py``: data, tasks, networks, rivals, the table of results and its report."""
