"""A run's kept pairs, written in the forms that other projects read."""
