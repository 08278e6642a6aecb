from reliability.simulation.program import app

app()
