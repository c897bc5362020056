"""`python -m integrand.cli`."""

import sys

from integrand.cli import main

if __name__ == "__main__":
    sys.exit(main())
