"""Edits on request: a page, an API and an assistants' endpoint, on Ray Serve. The engines are those of running/."""
