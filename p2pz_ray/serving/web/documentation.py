"""The API's documentation as a page, made from the description that programs read at /openapi.json."""

from html import escape
from typing import Any

from p2pz_ray.look import STYLE

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>{title}: the API</title>
<style>{style} a {{ color: var(--accent); }} table {{ font-size: .95rem; }}
th {{ white-space: nowrap; vertical-align: top; }} .scroll {{ margin-top: .75rem; }}</style></head>
<body><header><h1>The API</h1><p class="lead">{description} Programs read <a href="openapi.json">openapi.json</a>;
assistants speak the Model Context Protocol at /mcp. An error is <code>{{"error": {{"message": …}}}}</code>, with
Retry-After where the same request may be answered later.</p></header>
<main>{operations}</main></body></html>
"""


def documentation(openapi: dict[str, Any]) -> str:
    """HTML that loads nothing from elsewhere."""
    operations = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            heading = f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
            operations.append(heading + _table(_fields(operation, openapi)))
    info = openapi["info"]
    return PAGE.format(
        title=escape(info["title"]),
        description=escape(info["description"]),
        style=STYLE,
        operations="\n".join(operations),
    )


def _fields(operation: dict[str, Any], openapi: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, type and description of each parameter of an operation."""
    entries = [
        (field["name"], field["schema"], field.get("description", "")) for field in operation.get("parameters", [])
    ]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolve(content["schema"], openapi)
        needed = schema.get("required", [])
        for name, field in schema.get("properties", {}).items():
            sentences = ("Required." if name in needed else "", field.get("description", ""))
            entries.append((name, field, " ".join(filter(None, sentences))))
        entries.append(("Content-Type", {"type": media}, ""))
    return [(name, _type(schema, openapi), description) for name, schema, description in entries]


def _type(schema: dict[str, Any], openapi: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option, openapi) for option in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return "{" + ", ".join(_resolve(schema, openapi).get("properties", {})) + "}"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), openapi)}"
    return str(schema.get("format") or schema.get("type") or "any")


def _resolve(schema: dict[str, Any], openapi: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    resolved: dict[str, Any] = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return resolved


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(kind)}</td><td>{escape(about)}</td></tr>"
        for name, kind, about in rows
    )
    return f"<div class='scroll'><table><tbody>{cells}</tbody></table></div>"
