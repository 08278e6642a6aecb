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
        "relay/batch_publisher.py",
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
        "            verdicts = await self._verdicts(batch, session)\n",
        "            await session.subscription.ack(*batch.deliveries)\n"
        "            verdicts = await self._verdicts(batch, session)\n",
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
        "await write_dead_letter(\n            session,",
        "(lambda *_, **__: None)(\n            session,",
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
        "acks_what_was_returned",
        "the ack that follows a return counts, and the message as sent",
        "outbox/transports/rabbitmq/unconfirmed.py",
        "        if self.confirms[position] is None:\n",
        "        if True:\n",
        Suite(("tests/contracts/test_rabbitmq_publisher.py", "tests/contracts/test_transport.py")),
    ),
    Mutant(
        "takes_a_return_for_another",
        "a returned message counts as sent, and the first one of its batch as returned",
        "outbox/transports/rabbitmq/unconfirmed.py",
        "return self.first + position if",
        "return self.first if",
        Suite(("tests/contracts/test_rabbitmq_publisher.py", "tests/contracts/test_transport.py")),
    ),
    Mutant(
        "shares_rows_between_relays",
        "a claim does not lock its rows",
        "relay/storage/postgres_unkeyed_claim.py",
        "        .with_for_update(skip_locked=True)\n",
        "",
        Suite(("tests/contracts/test_outbox_store.py",)),
    ),
    Mutant(
        "claims_without_a_transaction",
        "the locks of a claim end with its statement, so another relay claims the same rows",
        "relay/storage/postgres_session.py",
        "self._driver.execute(BEGIN)",
        'self._driver.execute("SELECT 1")',
        Suite(("tests/contracts/test_outbox_store.py",)),
    ),
    Mutant(
        "uses_a_session_whose_request_was_cancelled",
        "a claim begins in a session that may still execute a request of an earlier one",
        "relay/storage/postgres_session.py",
        "may still be on its way.\n            self._broken = True\n",
        "may still be on its way.\n",
        Suite(("tests/integration/test_relay_sessions.py",)),
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
        '    parts = {"error": reason_of(error), "at"',
        '    parts = {"error": reason_of(error), "text": str(error), "at"',
        Suite(("tests/integration/test_main_job.py", "tests/integration/test_consumer.py")),
    ),
    Mutant(
        "keeps_the_effects_of_a_failed_batch",
        "the transaction of several messages is committed although a handler has failed",
        "consumer/execution/transaction.py",
        "                steps.raise_unless_failure(work, error)\n",
        "                steps.raise_unless_failure(work, error)\n"
        "                await work.commit()\n",
        Suite(("tests/contracts/test_shared_transactions.py",)),
    ),
    Mutant(
        "completes_messages_that_were_not_handled",
        "messages that a slow handler has left to a later transaction count as completed",
        "consumer/execution/transaction.py",
        "await self._dedup.forget(work.session, [each.key for each in self._uncalled])",
        "pass",
        Suite(("tests/contracts/test_shared_transactions.py",)),
    ),
    Mutant(
        "lets_a_handler_commit_its_neighbours",
        "a handler that commits completes the messages after its own, which were not handled",
        "consumer/execution/unit_of_work.py",
        "    if _COMMITS not in connection.info:\n",
        "    if False:\n",
        Suite(("tests/contracts/test_shared_session.py",)),
    ),
    Mutant(
        "lets_a_handler_take_back_changes_of_its_neighbours",
        "messages before one that expunges all objects are completed without their effects",
        "consumer/execution/session_guard.py",
        "            raise LostChangesError\n",
        "            pass\n",
        Suite(("tests/contracts/test_shared_session.py",)),
    ),
    Mutant(
        "goes_on_after_the_end_of_a_transaction",
        "the next message is handled outside of the transaction, which a handler has ended",
        "consumer/execution/calls.py",
        "    if not work.is_open:\n",
        "    if False:\n",
        Suite(("tests/contracts/test_shared_transactions.py",)),
    ),
    Mutant(
        "shares_a_transaction_with_a_killer",
        "messages beside a redelivery that ends its process become suspects with it",
        "consumer/dispatch/delivery_queue.py",
        "        return self._size is not None and bool(self.queued) and"
        " self.queued[0].delivery.redelivered\n",
        "        return False\n",
        Suite(("tests/unit/test_delivery_queue.py",)),
    ),
    Mutant(
        "keeps_acks_until_a_copy_is_taken",
        "a retry queue that is full keeps the messages handled beside a failed one unsettled",
        "consumer/dispatch/settlement.py",
        "        return [*([Step(at_once)] if at_once else []), *written, *copied]\n",
        "        steps = (*copied, *written, Step(at_once))\n"
        "        return [Step([each for step in steps for each in step.settled])]\n",
        Suite(("tests/unit/test_dispatcher.py",)),
    ),
    Mutant(
        "waits_until_a_failure_is_recorded",
        "a message is not retried while the database cannot record why it failed",
        "consumer/dispatch/failure_recorder.py",
        "            problem = error\n",
        "            raise\n",
        Suite(("tests/contracts/test_failing_messages.py",)),
    ),
    Mutant(
        "keeps_strikes_of_settled_messages",
        "a message that waits keeps the strikes of the settled ones beside it",
        "consumer/dispatch/strikes.py",
        "        if settled:\n",
        "        if settled and not waiting:\n",
        Suite(("tests/unit/test_dispatcher.py",)),
    ),
    Mutant(
        "settles_all_rows_or_none",
        "one row that the database refuses to settle stops all others",
        "relay/storage/isolation.py",
        "    return cause_of(error) in {Cause.VALUE, Cause.STATEMENT}",
        "    return False",
        Suite(("tests/simulation/test_other_people.py",)),
    ),
    Mutant(
        "reads_only_utf_8",
        "a row with a text that is no UTF-8 stops the relay",
        "outbox/database/sqlite_engine.py",
        "connection.driver_connection.text_factory = _TEXT",
        "connection.driver_connection.text_factory = str",
        Suite(("tests/simulation/test_other_people.py",)),
    ),
    Mutant(
        "lets_the_broker_count_deliveries",
        "messages that wait behind the one that ends its process count as failed with it",
        "consumer/checks.py",
        "delivery_limit=settings.delivery_limit if settings.is_counted_by_broker else None,",
        "delivery_limit=settings.delivery_limit,",
        Suite(("tests/simulation/test_deployments.py",)),
    ),
    Mutant(
        "dead_letters_types_of_a_later_version",
        "a worker of the old version dead-letters events that only the new one handles",
        "consumer/execution/decode.py",
        "    if error.code not in _WAITED_FOR and not headers.is_newer:\n",
        "    if error.code:\n",
        Suite(("tests/simulation/test_deployments.py",)),
    ),
    Mutant(
        "leaves_bindings_removed",
        "a binding that an operator has removed is not made again while processes work",
        "consumer/maintenance/topology_monitor.py",
        "        left += await self._declare(self._bindings, Kind.UNKNOWN)\n",
        "",
    ),
    Mutant(
        "drops_messages_that_the_dead_queue_refuses",
        "a policy limits the dead queue, and the broker drops messages that it refuses",
        "consumer/queues.py",
        '"x-dead-letter-strategy": "at-least-once",',
        '"x-dead-letter-strategy": "at-most-once",',
    ),
    Mutant(
        "lets_the_dead_queue_drop_messages",
        "a policy limits the dead queue, which drops its oldest messages",
        "consumer/queues.py",
        '"x-overflow": "reject-publish",',
        '"x-overflow": "drop-head",',
    ),
    Mutant(
        "forgets_the_priority_of_a_retry",
        "a message that has waited for a retry has the normal priority from then on",
        "consumer/message_copies.py",
        "        added[PRIORITY_HEADER] = priority\n",
        "",
    ),
    Mutant(
        "starves_other_priorities",
        "normal and low events wait in the outbox as long as urgent ones never end",
        "relay/storage/priority_turns.py",
        "if self._owed[each] + share >= 1",
        "if self._owed[each] < 0",
        Suite(("tests/unit/test_priority_turns.py",)),
    ),
    Mutant(
        "counts_no_begun_deliveries",
        "a message that ends each process that handles it is never given up",
        "consumer/dispatch/strikes.py",
        "            await self._begun.begin(messages)\n",
        "",
    ),
    Mutant(
        "forgets_strikes_during_a_lease",
        "a leased message that ends its process is never given up: its wait for the lease counts "
        "as a success",
        "consumer/dispatch/strikes.py",
        "(waiting if isinstance(verdict, Wait) else settled).append(delivery)",
        "settled.append(delivery)",
        Suite(("tests/simulation/test_deployments.py",)),
    ),
    Mutant(
        "sets_neighbours_aside",
        "a row beside one that the database refuses to settle is set aside with it",
        "relay/storage/isolation.py",
        "    if len(items) == 1:\n",
        "    if len(items) <= 2:\n",
    ),
    Mutant(
        "settles_the_rows_in_between",
        "the relay settles all rows between the first and the last one of its batch",
        "relay/storage/settlement.py",
        "return outbox.c.id.in_(ids)",
        "return outbox.c.id.between(min(ids), max(ids)) if ids else sa.false()",
    ),
    Mutant(
        "vouches_for_old_replays",
        "a replay vouches for its copies although their dedup rows may have been purged",
        "consumer/execution/executor.py",
        "is_known(session, run, within=self.retention)",
        "is_known(session, run, within=timedelta(days=3_650))",
        Suite(("tests/simulation/test_replays.py",)),
    ),
    Mutant(
        "trusts_a_restored_counter",
        "after a restore, a process starts although new rows would get ids below those that wait",
        "outbox/database/id_counters.py",
        "WHERE id > (SELECT last_value - (NOT is_called)::integer FROM {sequence})",
        "WHERE false AND id > (SELECT last_value - (NOT is_called)::integer FROM {sequence})",
        Suite(("tests/bad_inputs/test_copied_databases.py",)),
    ),
    Mutant(
        "trusts_notifications",
        "an idle relay claims only when it is notified, and never finds rows of a lost one",
        "relay/storage/postgres_notify.py",
        "        return bool(found)\n",
        "        return False\n",
        Suite(("tests/integration/test_idle_relay.py",)),
    ),
    Mutant(
        "leaves_late_commits",
        "events of a transaction that commits late wait although the relay publishes others",
        "relay/relay.py",
        "if wait and self._wakeup.armed and (claimed.rows or claimed.more):",
        "if False:",
        Suite(("tests/integration/test_two_loops.py",)),
    ),
    Mutant(
        "confirms_before_the_disk",
        "the embedded broker confirms a publish that a loss of power may undo",
        "outbox/transports/sqlite/transport.py",
        "partial(message_store.publish, messages=tuple(messages)), wait=seconds\n",
        "partial(message_store.publish, messages=tuple(messages)), wait=seconds, durable=False\n",
        Suite(("tests/integration/test_embedded_costs.py",)),
    ),
    Mutant(
        "shares_a_commit_that_may_be_undone",
        "a publish shares a transaction with an ack, and does not wait for the disk either",
        "outbox/transports/sqlite/connection.py",
        "any(task.is_durable for task in batch)",
        "all(task.is_durable for task in batch)",
        Suite(("tests/integration/test_embedded_costs.py",)),
    ),
    Mutant(
        "leaves_effects_to_a_loss_of_power",
        "a handler's transaction follows one of the relay's kind, and does not wait for the disk",
        "outbox/database/sqlite_connection.py",
        "            self._make_durable()\n",
        "            if not self._connection.is_durable:\n                self._make_durable()\n",
        Suite(("tests/contracts/test_sqlite_connection.py",)),
    ),
    Mutant(
        "forgets_lost_consumers_under_load",
        "the messages of a killed consumer come back only once no others come",
        "outbox/transports/sqlite/subscription.py",
        "        if claimed.overdue:\n",
        "        if claimed.overdue and not claimed.deliveries:\n",
        Suite(("tests/integration/test_embedded_costs.py",)),
    ),
    Mutant(
        "takes_an_observer_for_a_queue",
        "an event that only an observer of the embedded broker sees counts as sent",
        "outbox/transports/sqlite/messages.py",
        "Outcome.ACKED if queues else",
        'Outcome.ACKED if queues or one(db, "SELECT 1 FROM observers") else',
        Suite(("tests/contracts/test_observers.py",)),
    ),
)
