"""
An executor whose batches are decrypted; see `consumer.execution.decryption`.

It stands between others only if the consumer has keys: without, a delivery does not enter this
file.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consumer.execution.delivery_batch import DeliveryBatch, ReadyExecutor
from consumer.execution.executor import Executor
from consumer.verdict import Verdict

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption


def decrypting(executor: Executor, decryption: "Decryption | None") -> ReadyExecutor:
    """Return *executor*, with batches that *decryption* reads if there is one."""
    return executor if decryption is None else DecryptingExecutor(executor, decryption)


@dataclass(frozen=True, slots=True)
class DecryptingExecutor:
    """*executor*, whose batches *decryption* reads."""

    executor: Executor
    decryption: "Decryption"

    async def ready(self) -> bool:
        """Whether database and keys can be reached; always true. Raises Unavailable."""
        await self.decryption.ready()
        return await self.executor.ready()

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        """Like `Executor.execute`, with the keys of the batch held until its end."""
        messages = [each.message for each in batch.deliveries]
        if (at_once := self.decryption.at_once(messages)) is not None:
            return await self.executor.execute(batch.read_by(at_once))
        async with self.decryption.reading(messages) as reading:
            return await self.executor.execute(batch.read_by(reading))
