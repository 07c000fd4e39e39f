"""The metrics, each in a file of its own: pairs in, one value for each pair and column out."""
