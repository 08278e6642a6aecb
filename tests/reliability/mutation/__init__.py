"""
Whether the harness has teeth: deliberate faults in the product, each of which it has to find.
"""
