"""
Hypothesis without its deadline of 200 ms an example, which a busy machine can miss.
"""

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
