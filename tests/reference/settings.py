"""
The tables of settings, from the classes that read them.
"""

import json
from typing import Any

from pydantic import SecretStr

from consumer.settings import ConsumerSettings
from outbox.health_data import RECORD_TYPE
from outbox.settings import SharedSettings
from relay.settings import RelaySettings
from tests.reference import markdown
from tests.reference.markdown import code


def shared() -> str:
    """Settings that both processes read."""
    return _table(SharedSettings, set(SharedSettings.model_fields))


def relay() -> str:
    """Settings that only the relay reads."""
    return _table(
        RelaySettings, set(RelaySettings.model_fields) - set(SharedSettings.model_fields)
    )


def consumer() -> str:
    """Settings that only consumers read."""
    own = set(ConsumerSettings.model_fields) - set(SharedSettings.model_fields)
    return _table(ConsumerSettings, own)


def _table(kind: type[SharedSettings], names: set[str]) -> str:
    properties = kind.model_json_schema()["properties"]
    rows = [
        [
            code(f"MQ_{name.upper()}"),
            _type(properties[name]),
            _default(field.default),
            _bounds(properties[name]),
            field.description or "",
        ]
        for name, field in kind.model_fields.items()
        if name in names
    ]
    return markdown.table(["setting", "type", "default", "bounds", "meaning"], rows)


def _type(schema: dict[str, Any]) -> str:
    schema = _set(schema)
    if "enum" in schema:
        return " or ".join(map(code, schema["enum"]))
    if "const" in schema:
        return code(schema["const"])
    match schema["type"]:
        case "array":
            return f"list of {_items(schema['items'])}"
        case "string":
            return "URL" if schema.get("format") == "password" else "string"
        case other:
            return str(other)


def _items(schema: dict[str, Any]) -> str:
    return _type(schema) if "enum" in schema else f"{_type(schema)}s"


def _bounds(schema: dict[str, Any]) -> str:
    schema = _set(schema)
    bounds = [
        f"{words} {_number(schema[key])}"
        for key, words in {
            "exclusiveMinimum": "above",
            "minimum": "from",
            "maximum": "to",
            "exclusiveMaximum": "below",
        }.items()
        if key in schema
    ]
    if "items" in schema:
        counts = [schema[key] for key in ("minItems", "maxItems") if key in schema]
        bounds += [f"{' to '.join(map(str, counts))} items"] if counts else []
        each = _bounds(schema["items"])
        bounds += [f"each {each}"] if each else []
    if "maxLength" in schema:
        bounds.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    if "pattern" in schema:
        more = "_" if schema["pattern"] == RECORD_TYPE else "_.:-"
        bounds.append(f"letters, digits and {code(more)}")
    return ", ".join(bounds).replace("characters, letters", "letters")


def _set(schema: dict[str, Any]) -> dict[str, Any]:
    """The *schema* of a setting that is set: without null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    return {**schema, **choices[0]} if choices else schema


def _number(value: float) -> str:
    return f"{value:,.15g}"


def _default(value: object) -> str:
    match value:
        case None:
            return "unset"
        case SecretStr():
            return code(value.get_secret_value())
        case tuple():
            return code(json.dumps(value))
        case bool():
            return code(str(value).lower())
        case float():
            return code(f"{value:.15g}")
        case _:
            return code(value)
