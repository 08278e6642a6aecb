"""
Processes that are killed under load, one after another.
"""

import random

from tests.support.checked_deployment import CheckedDeployment


async def survive_kills(
    deployment: CheckedDeployment, *, kills: int, most_between: float, seed: int
) -> None:
    """Kill one of two relays and two consumers, and start it again, this often; then check."""
    jitter = random.Random(seed)
    processes = [
        await deployment.consumer(),
        await deployment.consumer(),
        await deployment.relay(),
        await deployment.relay(),
    ]
    async with deployment.under_load():
        for _ in range(kills):
            await deployment.wait(jitter.uniform(0, most_between))
            victim = jitter.choice(processes)
            with deployment.record_fault("killed"):
                victim.kill()
                victim.start()
        await deployment.makes_progress()
    await deployment.wait_until_settled()

    await deployment.check_guarantees()
