"""The evaluation of a run: scores for each pair, and their means."""
