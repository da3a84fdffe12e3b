"""``python -m sentence_transformers_mirror`` is ``st-mirror``."""

from __future__ import annotations

import sys

from sentence_transformers_mirror.cli import main

if __name__ == "__main__":
    sys.exit(main())
