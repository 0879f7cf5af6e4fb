"""The report: one page about what a fit has drawn, what that was worth, and which examples are hard or look wrong."""
