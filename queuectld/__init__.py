"""
The daemon: bytes become requests, requests and child exits become events; the queue answers each
event with records (what to remember) and effects (what to do); the journal remembers, and only
then does the daemon do.

Start reading in README.md beside this file.
"""
