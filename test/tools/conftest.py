"""What tests need that run a command of the graph in their own process."""

import pytest

from bisenet_ros.transport import large_image_environment, own_domain


@pytest.fixture
def transport_as_before(monkeypatch):
    """Restore the variables of DDS, which commands set for themselves and for their processes."""
    for name, value in {**own_domain(), **large_image_environment({})}.items():
        monkeypatch.setenv(name, value)
