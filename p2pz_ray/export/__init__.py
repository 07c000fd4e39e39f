"""A run's kept pairs in the forms that other projects read."""
