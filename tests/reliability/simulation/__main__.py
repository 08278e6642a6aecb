from tests.reliability.simulation.program import app

app()
