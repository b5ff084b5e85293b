"""What pgetpy decides: which bytes to ask for, whom to believe, what may be written, what to evict.

No module here opens a socket, a file, a thread or a clock: these arrive as arguments or come back
as values. What a room decides is in the folder of the same name here.
"""
