"""The command lines: what encoder.py and decoder.py do, and what all scripts share.

Importing it first says in one sentence what is missing, before an import fails.
"""

import preflight  # noqa: F401
