"""
`python -m queuectl` is the command line.
"""

import sys

from queuectl.cli import main

if __name__ == "__main__":
    sys.exit(main())
