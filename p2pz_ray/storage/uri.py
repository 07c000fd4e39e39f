"""Locations as people spell them."""

import re
from urllib.parse import unquote

MAGIC = re.compile(r"[*?\[]")
"""What makes a name a pattern."""


def unquoted(uri: str) -> str:
    """A `file://` URI as the path that it names, its %20 a space; any other location as it is."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "file":
        return uri
    host, slash, path = rest.partition("/")
    return unquote(f"{slash}{path}" if host in ("", "localhost") else rest, errors="surrogateescape")
