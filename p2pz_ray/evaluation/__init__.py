"""What a run's pairs are worth: the scores of each pair, and what they come to."""
