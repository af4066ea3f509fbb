"""
The public face of queuectl: wire protocol, blocking client, command line.

The daemon is one implementation of the other end and imports this package, never the reverse.
"""

__version__ = "0.1.0"
