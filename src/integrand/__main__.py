"""`python -m integrand`, which is how `torchrun -m integrand` starts the command line."""

import contextlib
import io
import os
import sys

from integrand.cli import main

if __name__ == "__main__":
    # all ranks compute the same answer, one prints it
    silent = int(os.environ.get("RANK", "0")) > 0
    with contextlib.redirect_stdout(io.StringIO()) if silent else contextlib.nullcontext():
        status = main()
    sys.exit(status)
