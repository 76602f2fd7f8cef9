"""Random answers, framings, requests, routes and modes: a mark that is judged bad is never on the wire or at a model.

Harmless words come out whole and once, in streams that end once. `python -m tests.fuzz --only endpoint` plays many more.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.serving.in_process import in_process
from tests.serving.random_answers import answers, check_answer
from tests.serving.random_requests import check_request, requests

KEPT = {"deadline": None, "suppress_health_check": [*HealthCheck], "derandomize": True, "database": None}
ANSWERS, REQUESTS = 1_600, 400


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with in_process(tmp_path_factory.mktemp("property"), keep_alive={"seconds": 20}) as found:
        yield found


@settings(max_examples=ANSWERS, **KEPT)
@given(drawn=answers())
def test_a_mark_is_never_on_the_wire_and_harmless_words_come_out_once(app, drawn):
    check_answer(app, drawn)


@settings(max_examples=REQUESTS, **KEPT)
@given(drawn=requests())
def test_a_mark_in_a_request_reaches_no_model_and_harmless_words_reach_it_once(app, drawn):
    check_request(app, drawn)
