"""
What a document says of the service around a consumer: its version, and the events that it sends.
"""

from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from pydantic import BaseModel

from consumer.payload_type import is_model
from consumer.target import load_module
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.event import event_type_of

UNKNOWN_VERSION = "0.0.0"


def version_of(target: str) -> str:
    """The version of the installed package that has the module of *target*; else 0.0.0."""
    package = target.partition(":")[0].partition(".")[0]
    found = set(metadata.packages_distributions().get(package, ()))
    return metadata.version(found.pop()) if len(found) == 1 else UNKNOWN_VERSION


def sent_by(modules: Sequence[str]) -> dict[str, type[BaseModel]]:
    """
    The models in *modules* whose class names its event type, by this type.

    Raises ConfigurationError if a module cannot be imported or has no such model, a type is
    invalid, or several models have it.
    """
    found: dict[str, type[BaseModel]] = {}
    for name in modules:
        models = _models(load_module(name, argument="--events"))
        if not models:
            raise ConfigurationError(
                f"--events: {name} has no model whose class has an event_type"
            )
        for model in models:
            event_type = _event_type_of(model)
            if found.setdefault(event_type, model) is not model:
                raise ConfigurationError(f"--events: {event_type} has several models")
    return found


def _models(module: ModuleType) -> list[type[BaseModel]]:
    # By their names, since a module may import some of them when they are asked for.
    public: list[object] = [
        getattr(module, name, None) for name in dir(module) if not name.startswith("_")
    ]
    return [each for each in public if is_model(each) and hasattr(each, "event_type")]


def _event_type_of(model: type[BaseModel]) -> str:
    try:
        return event_type_of(model)
    except InvalidEvent as error:
        raise ConfigurationError(f"--events: {model.__name__}: {error}") from None
