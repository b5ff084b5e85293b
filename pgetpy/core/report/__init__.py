"""What is told: the events of transfers, their results, where they stand, lines fit to print.

What prints them is in cli/.
"""
