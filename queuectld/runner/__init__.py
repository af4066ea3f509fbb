"""
The runner: parent of every job. It starts, signals and reaps processes for queuectld, outlives
it, and keeps each exit until queuectld has it on disk. Standard library only.

Start reading in runner.py; the wire is messages.py, the command line main.py.
"""
