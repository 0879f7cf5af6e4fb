"""What `benchmarks/suspects.py` judges by, and how it tells of it."""
