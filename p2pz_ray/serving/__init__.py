"""Edits on request: a page, an API and an endpoint for assistants, on Ray Serve. It uses the engines of running/."""
