"""
What happens under faults: a history that outsiders write, and a checker that has teeth.
"""
