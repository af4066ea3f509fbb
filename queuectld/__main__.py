"""
python -m queuectld: see main.py.
"""

import sys

from queuectld.main import main

sys.exit(main())
