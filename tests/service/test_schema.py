"""Requests made from the service's own OpenAPI document, and answers held against it."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


@pytest.fixture(scope="module")
def document(starting):
    with starting(deadline_s=60.0) as one:
        yield schemathesis.openapi.from_asgi("/openapi.json", one.client.app)


CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = {
    "/v1/recommend": "POST",
    "/v1/feedback": "POST",
    "/v1/completions": "POST",
    "/v1/items": "POST",
    "/v1/items/rollback": "POST",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}


def test_every_operation_is_tried(document):
    assert {op.ok().path: op.ok().method.upper() for op in document.get_all_operations()} == OPERATIONS


@pytest.mark.parametrize(("path", "method"), OPERATIONS.items(), ids=OPERATIONS)
def test_answers_are_as_the_document_says(document, path, method):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(document[path][method].as_strategy())
    def check(case):
        case.call_and_validate(checks=CHECKS)

    check()
