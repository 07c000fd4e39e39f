"""How the miniature's models are trained: one file a model, and what they share."""
