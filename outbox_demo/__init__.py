"""
The main job with real processes, some of which are killed: `relay demo`.

    sources ──▶ producer ──▶ outbox ──▶ relay ──▶ broker ──▶ two workers ──▶ effects

What was committed is then compared with what was applied, row by row.
"""
