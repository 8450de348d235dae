"""What the tests of agreement share."""

from wsseg.serve.agreement.estimates import Estimate


def known(found: Estimate) -> tuple[float, float, float]:
    """The value and the ends of its interval, all of which exist."""
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high
