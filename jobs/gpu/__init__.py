"""The measurements of `accelerator.py`. They need nothing that its docstring doesn't name."""
