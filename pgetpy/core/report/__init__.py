"""What is told: the events of transfers, their results, their state, lines fit to print.

What prints them is in cli/.
"""
