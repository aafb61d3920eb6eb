# SPDX-License-Identifier: Apache-2.0
"""``python -m hostreach``: the command line of this interpreter's hostreach, wherever it lies."""

import sys

from hostreach.start import main

sys.exit(main())
