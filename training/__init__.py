"""Training: settings, photographs, the step, the loop, checkpoints and export.

Importing it first says in one sentence what is missing, before an import fails.
"""

import preflight

preflight.check()
