"""Notebooks run shrunken in the tests: each reads this and takes a few batches instead of whole epochs."""

import os

os.environ["LIGHTNING_AS_QUICK"] = "1"
