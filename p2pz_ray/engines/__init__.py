"""Engines: what edits pictures in one process, by the method, by a student, or by a pipeline of diffusers'."""
