"""
The JSON Schemas of payloads, as AsyncAPI has them: pure.

An AsyncAPI schema is one of draft 07 of JSON Schema, whose definitions all messages share.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from consumer.contract.alternatives import ALSO_READ
from consumer.payload_type import PayloadType
from outbox.errors import ConfigurationError

Mode: TypeAlias = Literal["validation", "serialization"]
Key: TypeAlias = tuple[str, Mode]

DEFINITIONS = "#/components/schemas/"
_TEMPLATE = DEFINITIONS + "{model}"
_BINARY = {"type": "string", "format": "binary"}


class Schemas(NamedTuple):
    """The schema of each payload, by event type and direction, and the definitions they share."""

    payloads: dict[Key, Any]
    definitions: dict[str, Any]


class _Draft07(GenerateJsonSchema):
    """Pydantic's schemas, without what AsyncAPI has under the same name in another sense."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012
        "skipped-choice",
        "non-serializable-default",
    }

    def tagged_union_schema(self, schema: Any) -> Any:
        found = super().tagged_union_schema(schema)
        # AsyncAPI's discriminator is a name, and its values are those of definitions.
        found.pop("discriminator", None)
        return found

    def tuple_schema(self, schema: Any) -> Any:
        found = super().tuple_schema(schema)
        first = found.pop("prefixItems", None)
        if first is not None:
            if "items" in found:
                found["additionalItems"] = found["items"]
            found["items"] = first
        return found

    def model_fields_schema(self, schema: Any) -> Any:
        found = super().model_fields_schema(schema)
        for field in schema["fields"].values() if self.mode == "validation" else ():
            names = _names(field.get("validation_alias"))
            written = found.get("properties", {}).get(names[0] if names else None)
            if written is not None and len(names) > 1:
                written[ALSO_READ] = names[1:]
        return found

    def encode_default(self, dft: Any) -> Any:
        found = super().encode_default(dft)
        # A set has another order in each process.
        return sorted(found, key=repr) if isinstance(dft, set | frozenset) else found


def _names(alias: Any) -> list[str]:
    """The names under which a field with the validation alias *alias* is read."""
    if isinstance(alias, str):
        return [alias]
    paths = [path for path in alias or [] if isinstance(path, list)]
    return [path[0] for path in paths if len(path) == 1]


def schemas(received: Mapping[str, PayloadType], sent: Mapping[str, type[BaseModel]]) -> Schemas:
    """
    The schemas of the events that are *received* and *sent*, by event type.

    Raises ConfigurationError if a payload has no JSON Schema, as a function has none.
    """
    models: dict[Key, type[BaseModel]] = {(name, "serialization"): sent[name] for name in sent}
    payloads: dict[Key, Any] = {}
    for name, payload_type in received.items():
        if payload_type.model is not None:
            models[name, "validation"] = payload_type.model
        else:
            payloads[name, "validation"] = dict(_BINARY) if payload_type.is_bytes else {}
    found = _of_models(models)
    payloads |= found.payloads
    for name, payload_type in received.items():
        if payload_type.is_wrapped:
            payloads[name, "validation"] = _unwrapped(payloads[name, "validation"], found)
    return Schemas(payloads, found.definitions)


def _of_models(models: Mapping[Key, type[BaseModel]]) -> Schemas:
    adapters = {key: TypeAdapter(models[key]) for key in sorted(models)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for (name, mode), adapter in adapters.items():
            try:
                adapter.json_schema(mode=mode, schema_generator=_Draft07)
            except Exception as error:
                # Its own text shows the schema, with the developer's defaults.
                raise ConfigurationError(
                    f"event {name}: its payload has no JSON Schema ({type(error).__name__})"
                ) from error
        found, shared = TypeAdapter.json_schemas(
            [(name, mode, adapter) for (name, mode), adapter in adapters.items()],
            ref_template=_TEMPLATE,
            schema_generator=_Draft07,
        )
    return Schemas(
        {(name, mode): found[name, mode] for name, mode in found}, shared.get("$defs", {})
    )


def _unwrapped(payload: Any, found: Schemas) -> Any:
    """The schema in the model that was made around a type which is no model."""
    name = payload.get("$ref", "").removeprefix(DEFINITIONS)
    inner = dict(found.definitions.pop(name, payload))
    inner.pop("title", None)
    return inner
