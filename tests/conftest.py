import logging
import os
import tempfile

# a cache of this run's own: nothing that an earlier version derived or compiled may pass a test
os.environ.setdefault("INTEGRAND_CACHE", tempfile.mkdtemp(prefix="integrand-tests-"))
# Triton kernels run on CPU tensors; read when they are defined
os.environ.setdefault("TRITON_INTERPRET", "1")
logging.getLogger("torch").setLevel(logging.ERROR)
