"""`python -m documentation`: write what docs/ has of the program's own tables and drawings anew."""

from __future__ import annotations

import sys
from pathlib import Path

from cpcnn_core.errors import UserError
from documentation.written import written

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Write each file that differs, and say which."""
    try:
        files = written(ROOT)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    for path, text in files.items():
        old = path.read_text(encoding="utf-8") if path.is_file() else None
        if text != old:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
