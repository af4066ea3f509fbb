"""
The pure part: no clock, file, socket, process or log. See queue.py.
"""
