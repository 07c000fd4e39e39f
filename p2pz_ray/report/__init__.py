"""The report of a run, the comparison of two runs, and benchmark tables."""
