"""``python -m hybridnet.cli`` is the ``hybridnet`` command."""

import sys

from hybridnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
