"""Every error integrand raises on purpose: what must hold, what was got, the next step."""


class Error(Exception):
    """Base of all integrand errors."""


class SpecError(Error):
    """The declaration breaks the grammar or contradicts itself."""


class DerivationError(Error):
    """The gradient cannot be integrated, or the result does not match it."""


class CertificationError(Error):
    """A result was refused because its certificate fails."""


class BackendError(Error):
    """A kernel cannot be built or run here."""


class SwapError(Error):
    """A site in a model cannot be replaced safely."""


class BusyError(Error):
    """Another process is at work in the same folder."""


class DataError(Error):
    """Text, tokens or shards are missing, damaged or of the wrong kind."""
