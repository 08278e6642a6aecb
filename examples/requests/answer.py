"""
The service that answers: `consumer run examples.requests.answer:checker`.
"""

from itertools import combinations

from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, Reject
from examples.requests.messages import Interactions, InteractionsAsked

KNOWN = {"aspirin", "ibuprofen", "metformin", "warfarin"}
INTERACTING = {frozenset({"aspirin", "warfarin"}), frozenset({"ibuprofen", "warfarin"})}

checker = Consumer("checker", bindings=["interactions.#"])


@checker.on(InteractionsAsked)
async def check(message: Message[InteractionsAsked], _session: AsyncSession) -> Interactions:
    """Return the reply; it commits together with what the handler writes."""
    names = sorted({name.lower() for name in message.payload.medications})
    if not KNOWN.issuperset(names):
        # The caller gets this code, and an operator the dead letter.
        raise Reject("unknown_medication")
    pairs = [pair for pair in combinations(names, 2) if frozenset(pair) in INTERACTING]
    return Interactions(pairs=pairs)
