"""Spans and metrics through OpenTelemetry, if the application uses it (semantic conventions for HTTP clients, 1.23 and
later).

Each attempt is a span of kind CLIENT, a child of the caller's span. The histograms ``http.client.request.duration`` and
``twdm.quota.wait.duration`` are in seconds; the counter ``twdm.deliveries.unknown`` counts messages.
"""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from twdm_async import errors

if TYPE_CHECKING:
    from twdm_async.observers import AttemptReport, Observer


def observers() -> tuple[Observer, ...]:
    """Return an observer that reports to OpenTelemetry if the application has imported it; else an empty tuple."""
    return (_OpenTelemetry(),) if "opentelemetry.trace" in sys.modules else ()


class _OpenTelemetry:
    def __init__(self) -> None:
        trace: Any = importlib.import_module("opentelemetry.trace")
        metrics: Any = importlib.import_module("opentelemetry.metrics")
        self._trace = trace
        self._tracer: Any = trace.get_tracer("twdm_async")
        meter: Any = metrics.get_meter("twdm_async")
        self._duration = meter.create_histogram(
            "http.client.request.duration", unit="s", description="Duration of HTTP client requests."
        )
        self._waited = meter.create_histogram(
            "twdm.quota.wait.duration", unit="s", description="How long attempts waited for quota."
        )
        self._unknown = meter.create_counter(
            "twdm.deliveries.unknown", unit="{message}", description="Messages that may or may not have arrived."
        )

    def __call__(self, report: AttemptReport) -> None:
        self._waited.record(report.waited, {"twdm.endpoint": report.endpoint})
        if isinstance(report.error, errors.DeliveryUnknown):
            self._unknown.add(1, {"twdm.endpoint": report.endpoint})
        if not report.left:
            return  # there was no request
        attributes = _attributes(report)
        self._duration.record(report.took, attributes)
        began = int(report.began.timestamp() * 1e9)
        ended = int((report.began + timedelta(seconds=report.took)).timestamp() * 1e9)
        span = self._tracer.start_span(
            report.method,
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                **attributes,
                "url.full": report.url,
                "twdm.endpoint": report.endpoint,
                "twdm.quota.wait": report.waited,
                "twdm.abandoned": report.is_abandoned,
                **({"http.request.resend_count": report.number - 1} if report.number > 1 else {}),
            },
            start_time=began,
        )
        if "error.type" in attributes:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, report.problem))
        span.end(end_time=ended)


def _attributes(report: AttemptReport) -> dict[str, str | int]:
    parts = urlsplit(report.url)
    attributes: dict[str, str | int] = {
        "http.request.method": report.method,
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
    if report.status is not None:
        attributes["http.response.status_code"] = report.status
    if report.status is not None and report.status >= 400:
        attributes["error.type"] = str(report.status)
    elif report.status is None or isinstance(report.error, errors.DeliveryUnknown):
        attributes["error.type"] = type(report.error).__name__ if report.error else "_OTHER"
    return attributes
