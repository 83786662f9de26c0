"""Metrics of the operator, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .kube.kinds import resource_of

REGISTRY = CollectorRegistry()

QUEUE_DEPTH = Gauge("ecompile_queue_depth", "HybridModels waiting to be decided on", registry=REGISTRY)
QUEUE_AGE = Gauge("ecompile_queue_oldest_seconds", "Age of the oldest waiting item", registry=REGISTRY)
DECISION_SECONDS = Histogram(
    "ecompile_decision_seconds",
    "Time of observe, decide and apply for one model",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "ecompile_reconcile_errors_total", "Attempts that failed and are tried again", ["reason"], registry=REGISTRY
)
ROLLBACKS = Counter("ecompile_rollbacks_total", "Rollbacks", ["reason"], registry=REGISTRY)
TIME_TO_NEURAL = Histogram(
    "ecompile_time_to_neural_seconds",
    "From a rollback's decision to the last live pod's acknowledgement",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
    registry=REGISTRY,
)
API_REQUESTS = Counter(
    "ecompile_api_requests_total",
    "Requests to the API server; code `none` where no answer came",
    ["verb", "resource", "code"],
    registry=REGISTRY,
)
JOB_CPU_SECONDS = Counter("ecompile_job_cpu_seconds_total", "Processor time of Jobs", ["namespace"], registry=REGISTRY)
JOB_GPU_SECONDS = Counter("ecompile_job_gpu_seconds_total", "GPU time held by Jobs", ["namespace"], registry=REGISTRY)
JOB_JOULES = Counter(
    "ecompile_job_joules_total", "Energy of Jobs; modelled but for GPUs", ["namespace"], registry=REGISTRY
)
JOB_PRICE = Counter(
    "ecompile_job_price_total", "Price of Jobs, by the operator's rates", ["namespace"], registry=REGISTRY
)
WATCH_AGE = Gauge("ecompile_watch_age_seconds", "Time since the API server last sent anything", registry=REGISTRY)
ATTACHED_PODS = Gauge("ecompile_attached_pods", "Serving pods with an open control stream", registry=REGISTRY)
LEADING = Gauge("ecompile_leader", "1 while this replica leads", registry=REGISTRY)
MODELS = Gauge("ecompile_models", "HybridModels known", registry=REGISTRY)
MODELS_DECIDED = Gauge("ecompile_models_decided", "HybridModels decided on since this process leads", registry=REGISTRY)
STANDBY_READY = Gauge(
    "ecompile_standby_ready",
    "1 once everything was read, leading or not: from here on leading starts at once",
    registry=REGISTRY,
)

VERBS = {
    "GET": "get",
    "WATCH": "watch",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}


def count_request(method: str, path: str, status: str) -> None:
    """One request of the client. A list is a GET of a collection, and is counted as `get`."""
    API_REQUESTS.labels(VERBS.get(method, method), resource_of(path), status).inc()
