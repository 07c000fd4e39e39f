"""A translation: the job that makes a run of pairs from a collection."""
