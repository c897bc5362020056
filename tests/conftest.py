import logging
import os
import tempfile

# a cache of this run's own: nothing that an earlier version derived or compiled may pass a test
os.environ.setdefault("INTEGRAND_CACHE", tempfile.mkdtemp(prefix="integrand-tests-"))
logging.getLogger("torch").setLevel(logging.ERROR)
