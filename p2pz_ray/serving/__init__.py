"""Edits on request: a page, an API and an endpoint for assistants, on Ray Serve."""
