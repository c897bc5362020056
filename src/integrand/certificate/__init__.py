"""The truth: exhaustive half-precision sweeps, sampled fp32 and fp64, any callable."""

from integrand.certificate.certificate import Certificate, Failure, Region
from integrand.certificate.certify import certify

__all__ = ["Certificate", "Failure", "Region", "certify"]
