import pytest

from outbox.transports.routes import Link, RouteState, RoutingExchange, route_states

QUEUE, TO_OTHER = Link("a.#", "work"), Link("a.#", "other", to_exchange=True)


def state(key: str = "a.b", **exchanges: RoutingExchange) -> RouteState:
    return route_states("main", [key], exchanges)[key]


@pytest.mark.parametrize(
    ("kind", "pattern", "key", "expected"),
    [
        ("topic", "a.#", "a.b", RouteState.BOUND),
        ("topic", "a.#", "b.a", RouteState.NO_QUEUE),
        ("direct", "a.b", "a.b", RouteState.BOUND),
        ("direct", "a.#", "a.b", RouteState.NO_QUEUE),
        ("fanout", "", "any", RouteState.BOUND),
        ("headers", "", "a.b", RouteState.BOUND),
        ("x-random", "a.b", "a.b", RouteState.UNKNOWN),
    ],
)
def test_a_key_is_bound_as_the_kind_of_the_exchange_matches_it(kind, pattern, key, expected):
    assert state(key, main=RoutingExchange(kind, [Link(pattern, "work")])) is expected


def test_a_missing_exchange_is_named_and_an_exchange_without_bindings_leads_nowhere():
    assert state() is RouteState.NO_EXCHANGE
    assert state(main=RoutingExchange("headers")) is RouteState.NO_QUEUE


def test_a_key_is_followed_through_other_exchanges_and_never_in_circles():
    main = RoutingExchange("topic", [TO_OTHER])
    back = RoutingExchange("fanout", [Link("", "main", to_exchange=True)])

    assert state(main=main, other=RoutingExchange("topic", [QUEUE])) is RouteState.BOUND
    assert state(main=main, other=RoutingExchange("topic")) is RouteState.NO_QUEUE
    assert state(main=main, other=back) is RouteState.NO_QUEUE
    assert state(main=main) is RouteState.UNKNOWN


def test_an_alternate_exchange_gets_what_matches_nothing():
    spare = RoutingExchange("fanout", [Link("", "spare")])

    assert state(main=RoutingExchange("topic", alternate="spare"), spare=spare) is RouteState.BOUND
    leads_nowhere = RoutingExchange("topic", [TO_OTHER], alternate="spare")
    others = {"other": RoutingExchange("topic"), "spare": spare}
    assert state(main=leads_nowhere, **others) is RouteState.NO_QUEUE


def test_a_policy_may_name_an_alternate_exchange_that_the_bindings_do_not_show():
    assert state(main=RoutingExchange("topic", has_policy=True)) is RouteState.UNKNOWN
    assert state(main=RoutingExchange("topic", [QUEUE], has_policy=True)) is RouteState.BOUND


UNIT = Link("", "work", headers={"unit": "mg"})


def test_headers_decide_unless_each_way_ends_in_a_queue():
    assert state(main=RoutingExchange("headers", [UNIT])) is RouteState.UNKNOWN
    bound = RoutingExchange("fanout", [Link("", "spare")])
    both = RoutingExchange("headers", [UNIT], alternate="spare")
    assert state(main=both, spare=bound) is RouteState.BOUND
    assert state(main=both, spare=RoutingExchange("fanout")) is RouteState.UNKNOWN
    nowhere = RoutingExchange("headers", [Link("", "other", True, {"unit": "mg"})])
    assert state(main=nowhere, other=RoutingExchange("topic")) is RouteState.NO_QUEUE
