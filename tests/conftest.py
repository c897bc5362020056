import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

# the workers of xdist fill the cores already: threads, and processes for inductor's Triton kernels
# that no CPU needs, would only be in the way; torch reads both when it is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch

# a cache of this run's own: nothing that an earlier version derived or compiled may pass a test
os.environ.setdefault("INTEGRAND_CACHE", tempfile.mkdtemp(prefix="integrand-tests-"))
# Triton's kernels run on CPU tensors here; it reads this when it is imported
os.environ.setdefault("TRITON_INTERPRET", "1")
logging.getLogger("torch").setLevel(logging.ERROR)


def _poisoned(original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` whose result is NaN, or the largest integer, where integrand asked for it."""

    @functools.wraps(original)
    def empty(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        # dynamo cannot trace the look at the caller
        if torch.compiler.is_compiling():
            return result
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "integrand" and result.dtype is not torch.bool:
            whole = not (result.is_floating_point() or result.is_complex())
            with torch.no_grad():
                result.fill_(torch.iinfo(result.dtype).max if whole else torch.nan)
        return result

    return empty


# unwritten memory must not pass for zeros: everywhere, in autograd's threads too
for _name in ("empty", "empty_like", "empty_strided"):
    setattr(torch, _name, _poisoned(getattr(torch, _name)))
for _name in ("new_empty", "new_empty_strided"):
    setattr(torch.Tensor, _name, _poisoned(getattr(torch.Tensor, _name)))
