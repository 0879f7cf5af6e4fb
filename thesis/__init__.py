"""The thesis's experiments, and those that its questions ask for: run, measured and reported by commands."""
