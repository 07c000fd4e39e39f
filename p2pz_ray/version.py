"""The version, for what edited pictures, cards and services say of themselves."""

__version__ = "0.1.0"
