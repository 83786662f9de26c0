"""Settings of the operator process, from environment variables set by the Helm chart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecompile_crds.errors import Code, DataError
from ecompile_crds.tracing import PASSED_ON
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .decide.observed import Rates

ENV_PREFIX = "ECO_"


class Settings(BaseModel):
    """One field per variable: `ECO_` and the upper-case field name; POD_NAME as Kubernetes users know it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = Field(default="ecompile-system", description="Namespace of the operator itself.")
    pod_name: str = Field(default="ecompile-operator", description="POD_NAME: identity in the leader election.")
    serving_image: str = Field(default="ecompile/serving:dev", description="Image of serving pods.")
    worker_image: str = Field(default="ecompile/worker:dev", description="Image of Jobs.")
    image_pull_policy: str = Field(default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$")
    control_address: str = Field(default="", description="host:port at which pods and Jobs reach the control stream.")
    control_port: int = Field(default=8443, ge=0, le=65535)
    mutual_tls: bool = Field(default=False, description="Pods and Jobs must show a certificate of their namespace.")
    tls_external: bool = Field(default=False, description="Someone else makes and renews Secret ecompile-control-tls.")
    alerts_webhook: bool = Field(default=False, description="Take alerts from Alertmanager.")
    alerts_port: int = Field(default=8444, ge=0, le=65535, description="Where alerts are taken, over HTTPS.")
    metrics_port: int = Field(default=8080, ge=0, le=65535)
    health_port: int = Field(default=8081, ge=0, le=65535)
    artifacts_uri: str = Field(default="file:///artifacts", pattern="^(file|s3|gs)://")
    artifacts_claim: str = Field(
        default="ecompile-artifacts", description="PersistentVolumeClaim mounted at /artifacts."
    )
    watch_namespaces: tuple[str, ...] = Field(default=(), description="Comma separated; empty means all.")
    job_extra_volumes: tuple[dict[str, Any], ...] = Field(default=(), description="JSON list, added to Job Pods.")
    job_extra_mounts: tuple[dict[str, Any], ...] = Field(default=(), description="JSON list, added to Job containers.")
    job_extra_env: tuple[dict[str, Any], ...] = Field(default=(), description="JSON list, added to Job containers.")
    max_rollouts: int = Field(default=0, ge=0, description="Models in a rollout step at a time; 0 means no limit.")
    max_rollouts_per_namespace: int = Field(default=0, ge=0, description="The same, in one namespace.")
    storm_models: int = Field(
        default=5, ge=0, description="This many models rolled back within stormSeconds share a cause; 0 means never."
    )
    storm_seconds: int = Field(default=300, ge=10, le=86_400, description="See storm_models.")
    otel_env: tuple[tuple[str, str], ...] = Field(
        default=(), description="Variables of OpenTelemetry that Jobs and serving pods get as well."
    )
    watts_per_core: float = Field(
        default=8.0, gt=0, le=1000, description="Power of a busy core, for the modelled energy of Jobs."
    )
    price_per_core_hour: float = Field(
        default=0.0, ge=0, le=1e6, description="Price of a core for an hour; 0: unknown."
    )
    price_per_gpu_hour: float = Field(default=0.0, ge=0, le=1e6, description="Price of a GPU for an hour; 0: unknown.")
    leader_elect: bool = Field(default=True, description="Off only where exactly one operator can run.")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    def rates(self) -> Rates:
        """For the cost of Jobs."""
        return Rates(
            watts_per_core=self.watts_per_core,
            price_per_core_hour=self.price_per_core_hour,
            price_per_gpu_hour=self.price_per_gpu_hour,
        )

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("job_extra_volumes", "job_extra_mounts", "job_extra_env", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parsed = json.loads(value) if value.strip() else None
        if not isinstance(parsed, list | None):
            raise ValueError("must be a JSON list of objects")
        return tuple(parsed or ())

    @field_validator("control_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit()):
            raise ValueError("must be host:port, such as ecompile-control.ecompile-system.svc:8443")
        return value


VARIABLES = {
    field: "POD_NAME" if field == "pod_name" else ENV_PREFIX + field.upper() for field in Settings.model_fields
}
"""Environment variable of each field."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises DataError (SPEC_INVALID) naming the first variable that is wrong.
    """
    values: dict[str, object] = {
        field: environ[variable] for field, variable in VARIABLES.items() if variable in environ
    }
    values["otel_env"] = tuple((name, environ[name]) for name in PASSED_ON if environ.get(name))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        variable = VARIABLES[str(first["loc"][0])]
        raise DataError(Code.SPEC_INVALID, f"environment variable {variable}: {first['msg']}.") from error
