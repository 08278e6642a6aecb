"""
The handlers of a consumer, and the decorators with which they are registered.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Unpack, overload

from pydantic import BaseModel

from consumer.decorators import (
    Model,
    Registers,
    RegistersBatch,
    RegistersBatchOfModel,
    RegistersLeased,
    RegistersLeasedOfModel,
    RegistersModel,
    TypedModel,
)
from consumer.handled_event import Registered, check_model, event_type, handled_event
from consumer.handler import Handler, Lease, OnLeaseExpired, Options
from consumer.lifespan import Lifespan, provided
from consumer.signature import ALONE, BATCH, WITH_SESSION, name_of, naming, read
from outbox.errors import ConfigurationError

LEASE = timedelta(seconds=30)


class Registrations:
    """The handlers of the consumer *name*, by event type, with resources of *lifespan*."""

    def __init__(self, name: str, *, ordered: bool, lifespan: Lifespan | None) -> None:
        self.name = name
        self.ordered = ordered
        self.lifespan = lifespan
        self.handlers: dict[str, Handler] = {}

    @overload
    def on(
        self,
        event: type[TypedModel],
        /,
        *,
        batch_size: int | None = None,
        model: None = None,
        **options: Unpack[Options],
    ) -> RegistersModel[TypedModel]: ...
    @overload
    def on(
        self,
        event: str | None = None,
        /,
        *,
        batch_size: int | None = None,
        model: type[Model],
        **options: Unpack[Options],
    ) -> RegistersModel[Model]: ...
    @overload
    def on(
        self,
        event: str | None = None,
        /,
        *,
        batch_size: int | None = None,
        model: None = None,
        **options: Unpack[Options],
    ) -> Registers: ...
    def on(
        self,
        event: str | type | None = None,
        /,
        *,
        batch_size: int | None = None,
        model: type[BaseModel] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """
        Register the decorated coroutine function for *event*.

        That is a type of events, or a model whose class names it in `event_type`; without either,
        the annotation `Message[Model]` of the first parameter decides. The annotation also decides
        how the payload is read, unless *event* or *model* is a class of pydantic models.

        The consumer calls it with the message, a session, and the resources for which it has
        further parameters. Its writes through the session, outgoing events included, are committed
        together with the dedup record of the message; it must not commit itself. If it raises, the
        consumer rolls back and retries the message. What it returns is the reply to a request.

        Up to *batch_size* waiting messages share one transaction and one ack; if one fails, the
        consumer rolls back and handles each in its own transaction. With None the consumer decides
        how many: up to 64 if calls are short and rarely fail, one otherwise. With 1 none shares.
        For *options* see `consumer.handler.Options`.

        Raises ConfigurationError if the type is invalid, not known or has a handler, an option is
        invalid, the annotation and the model do not agree, a resource is not provided, or the
        function is no coroutine function with these parameters.
        """
        return self._registering(event, model, options, batch_size=batch_size)

    @overload
    def on_batch(
        self,
        event: type[TypedModel],
        /,
        *,
        size: int,
        model: None = None,
        **options: Unpack[Options],
    ) -> RegistersBatchOfModel[TypedModel]: ...
    @overload
    def on_batch(
        self,
        event: str | None = None,
        /,
        *,
        size: int,
        model: type[Model],
        **options: Unpack[Options],
    ) -> RegistersBatchOfModel[Model]: ...
    @overload
    def on_batch(
        self,
        event: str | None = None,
        /,
        *,
        size: int,
        model: None = None,
        **options: Unpack[Options],
    ) -> RegistersBatch: ...
    def on_batch(
        self,
        event: str | type | None = None,
        /,
        *,
        size: int,
        model: type[BaseModel] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """
        Register the decorated coroutine function for lists of up to *size* such events.

        Like `on`, but the consumer calls it once with all messages of the transaction; duplicates
        are left out. If it fails, the consumer calls it for each message alone.
        """
        return self._registering(event, model, options, batch_size=size, takes_list=True)

    @overload
    def on_leased(
        self,
        event: type[TypedModel],
        /,
        *,
        lease: timedelta = LEASE,
        on_expired: OnLeaseExpired = OnLeaseExpired.RETRY,
        model: None = None,
        **options: Unpack[Options],
    ) -> RegistersLeasedOfModel[TypedModel]: ...
    @overload
    def on_leased(
        self,
        event: str | None = None,
        /,
        *,
        lease: timedelta = LEASE,
        on_expired: OnLeaseExpired = OnLeaseExpired.RETRY,
        model: type[Model],
        **options: Unpack[Options],
    ) -> RegistersLeasedOfModel[Model]: ...
    @overload
    def on_leased(
        self,
        event: str | None = None,
        /,
        *,
        lease: timedelta = LEASE,
        on_expired: OnLeaseExpired = OnLeaseExpired.RETRY,
        model: None = None,
        **options: Unpack[Options],
    ) -> RegistersLeased: ...
    def on_leased(
        self,
        event: str | type | None = None,
        /,
        *,
        lease: timedelta = LEASE,
        on_expired: OnLeaseExpired = OnLeaseExpired.RETRY,
        model: type[BaseModel] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """
        Register the decorated coroutine function, whose effects are outside the database.

        The consumer calls it with the message and resources, without a session; it passes
        `message.idempotency_key` to the other side. While it works, the consumer extends its
        *lease*, and a second delivery waits. If the process ends, *on_expired* decides about the
        message once the lease has expired.
        """
        with naming(self._place(event)):
            held = Lease(lease, on_expired)
        return self._registering(event, model, options, lease=held)

    def _registering(
        self,
        event: Registered,
        model: type[BaseModel] | None,
        options: Options,
        **facts: Any,
    ) -> Callable[[Any], Any]:
        with naming(self._place(event)):
            known = event_type(event)
            check_model(model)
            _check_names(options)
            handler = Handler(known or "", **facts, **options)
            self._check_ordered(handler)
        self._check_free(known)
        parameters = BATCH if handler.takes_list else ALONE if handler.lease else WITH_SESSION

        def register(function: Any) -> Any:
            with naming(f"{self._place(event)}: handler", separator=" "):
                found = read(function, parameters=parameters)
                name = name_of(function)
                with naming(name):
                    handled, payload_type = handled_event(event, model, found.payload)
                resources = provided(self.lifespan, name, found.resources, parameters)
            self._check_free(handled)
            self.handlers[handled] = replace(
                handler,
                event_type=handled,
                function=function,
                payload_type=payload_type,
                resources=resources,
                answers=found.returns,
            )
            return function

        return register

    def _place(self, event: Registered) -> str:
        if event is None:
            return f"consumer {self.name}"
        # Of an instance, which may hold health data, only the class.
        kind = event if isinstance(event, type) else type(event)
        return f"consumer {self.name}: {event if isinstance(event, str) else kind.__name__}"

    def _check_free(self, event_type: str | None) -> None:
        if event_type in self.handlers:
            raise ConfigurationError(f"consumer {self.name}: {event_type} has a handler already")

    def _check_ordered(self, handler: Handler) -> None:
        if self.ordered and (handler.lease or handler.circuit_breaker):
            problem = "an ordered consumer takes no leased handlers and no circuit breakers"
            raise ConfigurationError(problem)


def _check_names(options: Options) -> None:
    """Raise ConfigurationError for an option that is misspelt, or of another kind of handler."""
    for name in sorted(options.keys() - Options.__annotations__.keys()):
        raise ConfigurationError(f"{name}: is no option of this kind of handler")
