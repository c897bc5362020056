"""The truth: exhaustive half-precision sweeps, sampled fp32 and fp64, any callable."""

from integrand.certificate.certificate import Certificate, Failure, Region
from integrand.certificate.certification import certify
from integrand.certificate.output_only import certify_output_only
from integrand.certificate.peers import transformers_xielu, xielu_values
from integrand.certificate.verification import Verification, verify

__all__ = [
    "Certificate",
    "Failure",
    "Region",
    "Verification",
    "certify",
    "certify_output_only",
    "transformers_xielu",
    "verify",
    "xielu_values",
]
