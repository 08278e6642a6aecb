"""
Exchanges as users declare them: in code, or as MQ_EXCHANGES names them. Pure.

    Exchange("vitals", kind="fanout", bindings=["health.vitals.#"])
    Exchange("by_unit", kind="headers", alternate="unrouted", bindings=[Binding("vitals")])

A `Binding` says which messages of an exchange arrive: at the exchange that has it, or at the queue
of a consumer that has it. A string stands for a pattern on MQ_MAIN_EXCHANGE.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from outbox.errors import ConfigurationError
from outbox.validation import is_exchange_name

ExchangeKind: TypeAlias = Literal["topic", "direct", "fanout", "headers"]
KINDS: tuple[ExchangeKind, ...] = get_args(ExchangeKind)
MAX_PATTERN_BYTES = 255

_HEADER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_INTEGER = 2**63


@dataclass(frozen=True, slots=True)
class Binding:
    """
    The messages of *exchange* that arrive.

    Args:
        exchange: Its name.
        pattern: Of a topic exchange a pattern, in which `*` is one word and `#` any number; of a
            direct exchange the routing key. Default is all messages; a direct exchange needs one.
        headers: Of a headers exchange: names of headers, with the value that a message has to
            have, or None for any value.
        match: Whether a message has to have `all` of *headers*, or `any` of them.

    Raises ConfigurationError, which names the argument.

    """

    exchange: str
    pattern: str | None = None
    headers: Mapping[str, str | int | None] | None = None
    match: Literal["all", "any"] = "all"

    def __post_init__(self) -> None:
        if not _is_name(self.exchange):
            raise ConfigurationError("binding: exchange must be 1 to 200 letters, digits and _.:-")
        where = f"binding to exchange {self.exchange}"
        if self.pattern is not None and not is_pattern(self.pattern):
            raise ConfigurationError(f"{where}: pattern must be of 1 to 255 bytes")
        if self.match not in ("all", "any"):
            raise ConfigurationError(f"{where}: match must be all or any")
        if self.headers is None:
            if self.match == "any":
                raise ConfigurationError(f"{where}: match=any needs headers")
            return
        if self.pattern is not None:
            raise ConfigurationError(f"{where}: has a pattern or headers, not both")
        object.__setattr__(self, "headers", _checked_headers(where, self.headers))

    def __hash__(self) -> int:
        return hash((self.exchange, self.pattern, self.match))


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    A durable exchange that relay and consumers declare.

    Args:
        name: At most 200 letters, digits and `_.:-`.
        kind: How it chooses: `topic` and `direct` by the routing key, `fanout` not at all,
            `headers` by the headers of a message.
        alternate: The exchange that gets the messages that no binding of this one takes.
        bindings: Messages of other exchanges that this one gets; a string is a pattern on
            MQ_MAIN_EXCHANGE.

    Raises ConfigurationError, which names the argument.

    """

    name: str
    kind: ExchangeKind = "topic"
    alternate: str | None = None
    bindings: Sequence[str | Binding] = ()

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ConfigurationError("exchange: name must be 1 to 200 letters, digits and _.:-")
        where = f"exchange {self.name}"
        if self.kind not in KINDS:
            raise ConfigurationError(f"{where}: kind must be {', '.join(KINDS)}")
        if self.alternate is not None and not _is_name(self.alternate):
            raise ConfigurationError(
                f"{where}: alternate must be the name of an exchange: 1 to 200 letters, digits"
                " and _.:-"
            )
        if self.alternate == self.name:
            raise ConfigurationError(f"{where}: alternate must be another exchange")
        object.__setattr__(self, "bindings", checked_bindings(where, self.bindings, least=0))
        if any(isinstance(each, Binding) and each.exchange == self.name for each in self.bindings):
            raise ConfigurationError(f"{where}: bindings must name other exchanges")


def checked_bindings(where: str, bindings: object, *, least: int = 1) -> tuple[str | Binding, ...]:
    """
    Return *bindings*; raise ConfigurationError for other values, or fewer than *least*.

    Callers without a type checker err, and a broker refuses longer patterns.
    """
    if (
        not isinstance(bindings, Collection)
        or isinstance(bindings, (str, bytes, Mapping))
        or len(bindings) < least
        or not all(isinstance(each, Binding) or is_pattern(each) for each in bindings)
    ):
        raise ConfigurationError(
            f"{where}: bindings must be a list of patterns of 1 to 255 bytes, or Bindings"
        )
    return tuple(bindings)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and is_exchange_name(value)


def is_pattern(value: object) -> bool:
    """Return whether a broker takes *value* as a pattern."""
    try:
        return isinstance(value, str) and 1 <= len(value.encode()) <= MAX_PATTERN_BYTES
    except UnicodeEncodeError:
        return False


def _checked_headers(where: str, headers: object) -> Mapping[str, Any]:
    if not isinstance(headers, Mapping) or not headers:
        raise ConfigurationError(f"{where}: headers must be a mapping that is not empty")
    for name, value in headers.items():
        # Those that begin with x- belong to the wire format and the broker.
        if not isinstance(name, str) or not _HEADER.fullmatch(name) or name.startswith("x-"):
            raise ConfigurationError(
                f"{where}: headers has a name that is reserved, or is not lower-case words joined"
                " by dashes"
            )
        if not _is_header_value(value):
            raise ConfigurationError(
                f"{where}: headers.{name} must be a string of at most 1024 bytes, an integer of"
                " 64 bits, a boolean or None"
            )
    return MappingProxyType(dict(headers))


def _is_header_value(value: object) -> bool:
    match value:
        case None | bool():
            return True
        case int():
            return -_MAX_INTEGER <= value < _MAX_INTEGER
        case str():
            return value.isprintable() and len(value.encode()) <= 1_024  # noqa: PLR2004
        case _:
            return False
