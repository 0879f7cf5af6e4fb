"""A comparison: whether a strategy pays on a task of one's own, against plain shuffled epochs."""
