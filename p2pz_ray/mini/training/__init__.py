"""The training of the miniature's models: one file per model, and what they share."""
