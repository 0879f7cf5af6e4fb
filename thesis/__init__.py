"""The thesis's studies, and those that its questions ask for: run, measured and reported by ``python -m thesis``."""
