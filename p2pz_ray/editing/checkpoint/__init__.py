"""A checkpoint: where its files are, what kind it is, and which weights are loaded from it."""
