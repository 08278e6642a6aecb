"""
Calls while all processes of both sides are killed, and what has to hold in the end.

Each call has one reply, whichever process of the caller reads it, or timed out, and no handler is
applied twice. A process of the caller may also find a late reply to a call that timed out.
"""

import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

from outbox.reply_table import replies
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import PreparedProcess

_WORDS = 3
"""A line that the kill of its writer has cut may have fewer."""
_ROUND = {"MQ_RETRY_DELAYS": "[0.2]", "MQ_MAX_RETRIES": "50", "MQ_HEARTBEAT_SECONDS": "3"}


class CallsUnderKills:
    """*calls* of a caller, a relay, a responder and a consumer of replies, in *directory*."""

    def __init__(
        self, database_url: str, broker_url: str, directory: Path, *, calls: int, deadline: float
    ) -> None:
        self.deployment = Deployment(database_url, broker_url, directory, **_ROUND)
        self._caller_log = directory / "caller.log"
        self._calls, self._deadline = calls, deadline

    async def run(self, *, kills: int, seed: int) -> None:
        """Kill a process *kills* times while the calls go on; return once the caller is done."""
        jitter = random.Random(seed)
        async with self.deployment:
            replies_of = ("consumer", "run", "consumer.replies:replies")
            others = [
                await self.deployment.relay(),
                await self.deployment.consumer("responder", name="responder"),
                await self.deployment._start(*replies_of, announces="consumer_started"),
            ]
            async with self._caller() as caller:
                for kill in range(kills):
                    await self._progresses(to=self._calls * kill // kills)
                    victim = jitter.choice([caller, *others])
                    victim.kill()
                    victim.start()
                await eventually(
                    lambda: "caller_done" in caller.output,
                    within=self._deadline + 60,
                    message="the caller has outcomes that it waits for",
                )
            await self._check()

    async def _progresses(self, *, to: int) -> None:
        await eventually(
            lambda: len(self._outcomes()) >= to,
            within=self._deadline + 60,
            message=f"the caller has fewer than {to} outcomes",
        )

    def _outcomes(self) -> dict[str, set[str]]:
        """What the caller got for each call, by correlation id."""
        found: dict[str, set[str]] = defaultdict(set)
        for line in self._caller_log.read_text().splitlines():
            if line.startswith("outcome ") and len(words := line.split()) == _WORDS:
                found[words[1]].add(words[2])
        return found

    def _caller(self) -> PreparedProcess:
        command = [
            sys.executable,
            "-m",
            "tests.support.caller",
            str(self._calls),
            str(self._deadline),
        ]
        return PreparedProcess(command, log=self._caller_log, env=self.deployment.settings)

    async def _check(self) -> None:
        outcomes = self._outcomes()
        rows = {row["correlation_id"]: row for row in await self.deployment.rows(replies)}
        applied = Counter(map(str, await self.deployment.applied()))
        self.timed_out = [id_ for id_, found in outcomes.items() if "timed_out" in found]
        self.answered = [id_ for id_, found in outcomes.items() if "timed_out" not in found]

        assert len(rows) >= self._calls
        assert set(outcomes) == set(rows), "each call has an outcome"
        answers = [found - {"timed_out"} for found in outcomes.values()]
        assert all(len(found) <= 1 for found in answers), "and no call has two replies"
        assert all(total.isdigit() for found in answers for total in found), "none has failed"
        assert not [id_ for id_, times in applied.items() if times > 1], "no handler applied twice"
        assert not [id_ for id_ in self.answered if applied[id_] != 1], "an answer has its effect"
        assert await self.deployment.dead() == []
