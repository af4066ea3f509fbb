"""
The web gateway: HTTP in front of the daemon's socket, in a process of its own.

    browser, curl, queuectl --host ─ HTTP ─▶ guard ─▶ routes ─▶ Link ─ msgpack frames ─▶ queuectld

It is a client of the daemon like any other and has no privilege. Who comes over HTTP brings a
token; the daemon checks it and decides what its account may see and do. What the gateway itself
decides is which requests get that far: see guard.py.

To read it: serving.py (how it runs), app.py (all routes), guard.py with arrival.py, bodies.py and
authentication.py (who gets past), gateway.py, sessions.py and link.py (what it holds). Then
api.py with operations.py (the REST API), live.py with hub.py (streams), tunnel.py (`--host`),
exposition.py (metrics) and pages.py (the dashboard).
"""
