"""What the command lines share: options, inputs, outputs, the loop over files, errors.

Importing it first says in one sentence what is missing, before an import fails.
"""

import preflight  # noqa: F401
