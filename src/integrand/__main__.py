"""`python -m integrand`, which is how `torchrun -m integrand` starts the command line."""

import sys

from integrand.cli import main

if __name__ == "__main__":
    sys.exit(main())
