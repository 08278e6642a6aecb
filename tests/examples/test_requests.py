"""
The example that asks another service, with real processes beside it.
"""

import pytest

from examples.requests import ask
from tests.support.deployment import Deployment


@pytest.fixture
async def deployment(sqlite_url, embedded_broker_url, tmp_path, clean_environment):
    async with Deployment(sqlite_url, embedded_broker_url, tmp_path) as deployment:
        for name, value in deployment.settings.items():
            clean_environment.setenv(name, value)
        await deployment.relay()
        await deployment._start(
            "consumer", "run", "examples.requests.answer:checker", announces="consumer_started"
        )
        yield deployment


async def test_a_question_is_answered_or_fails_with_the_code_of_the_answering_service(
    deployment, capsys
):
    assert await ask.main(["Warfarin", "aspirin", "metformin"]) == 0
    assert await ask.main(["snake oil"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert "aspirin and warfarin" in lines
    assert "not answered: unknown_medication" in lines
