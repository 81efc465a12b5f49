"""What OpenTelemetry is told, by an application that has it; in a process of its own, since it is set up once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import asyncio, json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twdm_async import Client, DeliveryUnknown
from twdm_async.sandbox import Fault, Sandbox

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

async def main():
    faults = [
        Fault("reset", endpoint="direct_messages.send", nth=2),
        Fault("503", endpoint="account.verify_credentials", nth=1),
    ]
    async with (
        Sandbox(faults=faults) as sandbox,
        Client(sandbox.credentials, api_url=sandbox.url, upload_url=sandbox.url) as client,
    ):
        with trace.get_tracer("application").start_as_current_span("application"):
            await client.direct_messages.send("5", "SENTINELtext")
            try:
                await client.direct_messages.send("5", "SENTINELtext")
            except DeliveryUnknown:
                pass
            await client.account.verify_credentials()

asyncio.run(main())
spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
print(json.dumps({"spans": spans, "metrics": json.loads(reader.get_metrics_data().to_json())}))
"""


def told() -> dict[str, Any]:
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50, cwd=root)  # noqa: S603 - this Python
    assert "SENTINEL" not in done.stdout
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_spans_and_metrics() -> None:
    everything = told()
    *attempts, application = everything["spans"]
    assert application["name"] == "application"
    assert {span["parent_id"] for span in attempts} == {application["context"]["span_id"]}
    assert [span["name"] for span in attempts] == ["POST", "POST", "GET", "GET"]
    assert {span["kind"] for span in attempts} == {"SpanKind.CLIENT"}
    sent, unknown, failed, again = (span["attributes"] for span in attempts)
    assert sent["http.request.method"] == "POST"
    assert sent["http.response.status_code"] == 200
    assert sent["server.address"] == "127.0.0.1"
    assert sent["url.full"].endswith("/1.1/direct_messages/events/new.json")
    assert sent["twdm.endpoint"] == "direct_messages.send"
    assert "error.type" not in sent
    assert unknown["error.type"] == "DeliveryUnknown"
    assert attempts[1]["status"]["status_code"] == "ERROR"
    assert (failed["error.type"], "http.request.resend_count" in failed) == ("503", False)
    assert again["http.request.resend_count"] == 1
    measured = {
        metric["name"]: sum(point.get("count", point.get("value")) for point in metric["data"]["data_points"])
        for scope in everything["metrics"]["resource_metrics"][0]["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert measured == {"http.client.request.duration": 4, "twdm.quota.wait.duration": 4, "twdm.deliveries.unknown": 1}
