"""
The commands, one module per group; cli.py says which holds what and imports it on use.

Each module has COMMANDS: its commands with their options, and the functions that carry them out.
"""
