"""
The mutants: a line or two of the product, and the faulty text that replaces them.

Each is a mistake that some published relay or consumer has made.
"""

from dataclasses import dataclass
from typing import TypeAlias

SEEDS = 300


@dataclass(frozen=True, slots=True)
class Schedules:
    """Caught by random schedules of the simulation; at most *seeds* are tried."""

    seeds: int = SEEDS


@dataclass(frozen=True, slots=True)
class Suite:
    """Caught by *nodes*, tests with real servers."""

    nodes: tuple[str, ...]


Check: TypeAlias = Schedules | Suite


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    A fault in *file*, where *new* replaces *old*.

    Args:
        says: The fault, in the words of the table.
        check: The check that has to catch it.

    """

    name: str
    says: str
    file: str
    old: str
    new: str
    check: Check = Schedules()


MUTANTS = (
    Mutant(
        "deletes_before_the_confirm",
        "the relay deletes rows before the broker has confirmed them",
        "relay/verdict.py",
        "case Outcome.ACKED:\n",
        "case Outcome.ACKED | Outcome.UNKNOWN:\n",
    ),
    Mutant(
        "ignores_returns",
        "an unroutable message counts as sent",
        "relay/verdict.py",
        "case Outcome.ACKED:\n",
        "case Outcome.ACKED | Outcome.RETURNED:\n",
    ),
    Mutant(
        "publishes_after_a_failure",
        "the relay publishes later rows of a key although an earlier one was not confirmed",
        "relay/relay.py",
        "sendable = [row for row in wave if row.ordering_key not in failed] if failed else wave",
        "sendable = list(wave)",
    ),
    Mutant(
        "passes_over_earlier_rows",
        "rows of a key are claimed although an earlier one waits or is held by another claim",
        "relay/storage/keyed_scan.py",
        'if row.values["position"] == taken[key] + 1:',
        "if True:",
    ),
    Mutant(
        "acks_before_the_commit",
        "the broker gets the ack before the commit",
        "consumer/dispatch/dispatcher.py",
        "            verdicts = await self._verdicts(batch)\n            if verdicts is None:",
        "            await self._subscription.ack(*batch.deliveries)\n"
        "            verdicts = await self._verdicts(batch)\n            if verdicts is None:",
    ),
    Mutant(
        "records_in_a_transaction_of_its_own",
        "the dedup row is committed before the handler is called",
        "consumer/execution/transaction.py",
        "                await steps.record(work)\n",
        "                await steps.record(work)\n                await work.commit()\n"
        "                await work.begin()\n",
    ),
    Mutant(
        "handles_duplicates",
        "a redelivery of a completed message is recorded and handled again",
        "consumer/storage/dedup.py",
        "            where=table.c.status != COMPLETED,\n        ).returning",
        "        ).returning",
    ),
    Mutant(
        "trusts_a_lost_commit",
        "a COMMIT without a reply counts as committed",
        "consumer/execution/transaction.py",
        "                    await work.commit()\n",
        "                    with __import__('contextlib').suppress(Exception):\n"
        "                        await work.commit()\n",
    ),
    Mutant(
        "dead_letters_without_a_row",
        "a message is dead-lettered, and dead_letters gets no row",
        "consumer/storage/dead_letters.py",
        "    await session.execute(\n        sa.insert(dead_letters)",
        "    _ = (\n        sa.insert(dead_letters)",
    ),
    Mutant(
        "purges_below_the_horizon",
        "the dedup store purges rows of messages that may be delivered again",
        "consumer/maintenance/retention.py",
        "self._age = older_than + MARGIN",
        "self._age = timedelta(0)",
    ),
    Mutant(
        "handles_messages_that_are_too_old",
        "a message whose dedup row may have been purged counts as new",
        "consumer/execution/decode.py",
        "if envelope.recorded_at is not None and envelope.recorded_at < oldest:",
        "if False:",
    ),
    Mutant(
        "replays_and_forgets",
        "a replay deletes the dead letter, whether its copy has arrived or not",
        "outbox/dead_letters/replay.py",
        "        gone = _arrived(letters, result.problems)\n",
        "        gone = list(letters)\n",
    ),
    Mutant(
        "acks_before_the_copy_is_confirmed",
        "a failed message is acked before the copy for its retry is confirmed",
        "outbox/transports/rabbitmq/subscription.py",
        "        outcome = (await self._publisher.publish(",
        "        await self.ack(delivery)\n        outcome = (await self._publisher.publish(",
        Suite(("tests/faults/test_retry_crashes.py",)),
    ),
    Mutant(
        "has_one_id_twice_in_flight",
        "two messages with one id are in flight on one channel, and a return is taken for the "
        "other's",
        "outbox/transports/rabbitmq/in_flight.py",
        "len(self._ids) + len(ids) <= MAX_MESSAGES and self._ids.isdisjoint(ids)",
        "len(self._ids) + len(ids) <= MAX_MESSAGES",
        Suite(("tests/contracts/test_rabbitmq_publisher.py", "tests/contracts/test_transport.py")),
    ),
    Mutant(
        "shares_rows_between_relays",
        "a claim does not lock its rows",
        "relay/storage/claim_statements.py",
        "UNKEYED_CANDIDATES.with_for_update(skip_locked=True)",
        "UNKEYED_CANDIDATES",
        Suite(("tests/contracts/test_outbox_store.py",)),
    ),
    Mutant(
        "claims_while_the_broker_is_unreachable",
        "a relay holds a transaction open while it waits for the broker",
        "relay/relay.py",
        "        await self._publisher.ready()\n        async with self._store.claim",
        "        async with self._store.claim",
        Suite(("tests/integration/test_relay.py", "tests/faults/test_relay_crashes.py")),
    ),
    Mutant(
        "quotes_health_data",
        "a log line of an error has its text in it",
        "outbox/runtime/logs.py",
        '    return {"error": reason_of(error), "at"',
        '    return {"error": reason_of(error), "text": str(error), "at"',
        Suite(("tests/integration/test_main_job.py", "tests/integration/test_consumer.py")),
    ),
)
