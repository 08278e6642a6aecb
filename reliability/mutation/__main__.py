from reliability.mutation.program import app

app()
