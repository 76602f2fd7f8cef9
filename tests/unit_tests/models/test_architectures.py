"""Every family through the public API: text, pictures, mixed batches, streams, fitting, interventions, traces."""

import pytest

from tests.architecture_checks import CAPABILITIES, loaded_vlm
from tests.tiny_models import WITH_PROCESSOR


@pytest.fixture(scope="module", params=WITH_PROCESSOR)
def family(request):
    return loaded_vlm(*WITH_PROCESSOR[request.param]())


QUICK = ("mixed batch", "gate trace")
"""What covers most in the least time; the whole grid is slow."""


@pytest.mark.parametrize(
    "capability", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in CAPABILITIES]
)
def test_a_family_does_what_the_table_says(family, capability):
    CAPABILITIES[capability](family)
