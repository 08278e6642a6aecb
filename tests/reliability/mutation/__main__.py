from tests.reliability.mutation.program import app

app()
