"""URIs as people write them."""

import re
from urllib.parse import unquote

MAGIC = re.compile(r"[*?\[]")
"""Characters that make a name a pattern."""


def unquoted(uri: str) -> str:
    """The path that a `file://` URI names, with %20 as a space; any other location unchanged."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "file":
        return uri
    host, slash, path = rest.partition("/")
    return unquote(f"{slash}{path}" if host in ("", "localhost") else rest, errors="surrogateescape")
