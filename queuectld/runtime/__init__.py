"""
Everything that waits: the loop, sockets, the link to the runner, output files, the clock.
"""
