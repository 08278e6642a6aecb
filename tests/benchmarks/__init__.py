"""
What relay and consumer achieve, measured beside what one would write by hand; run by `make bench`.

`docs/explanation/benchmarks.md` says what each figure means and how it is taken.
"""
