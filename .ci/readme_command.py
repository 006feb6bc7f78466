"""Prints the README's shell block that follows the comment <!-- ci: NAME -->."""

import re
import sys
from pathlib import Path

readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
match = re.search(
    rf"<!-- ci: {re.escape(sys.argv[1])} -->\s*```(?:sh|bash)\n(.*?)```", readme, re.S
)
if not match:
    sys.exit(f"README.md has no command block marked {sys.argv[1]!r}.")
print(match.group(1))
