"""
How fast it is, as ratios to what the machine can do. See README.md.
"""
