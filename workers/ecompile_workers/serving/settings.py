"""What the pod is told: environment variables, parsed once. The operator writes them (its `specs/serving.py`)."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ecompile_crds import names
from ecompile_crds.errors import Code, DataError
from ecompile_crds.hybridmodel import Analysis, Fairness, Isolation
from pydantic import ValidationError

from ..governance.carbon import intensity
from .watchdog import HANG_SECONDS

Document = TypeVar("Document", Analysis, Fairness)

DEFAULT_PORT = 8080
DEFAULT_GRPC_PORT = 8081


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the pod needs to know before it reads a file."""

    namespace: str
    model: str
    life: str
    plan_uri: str
    artifacts_uri: str
    control_address: str
    """host:port; empty where there is no operator."""
    control_server_name: str
    """Name that the operator's certificate must carry; empty: the host of `control_address`."""
    analysis: Analysis
    port: int
    grpc_port: int | None
    """None: no gRPC (ECO_GRPC_PORT=0)."""
    pod: str
    trust_dir: Path
    token_file: Path
    routing_dir: Path
    state_dir: Path
    """Outlives the container, not the pod: crash journal and detectors' state."""
    client_dir: Path = Path(names.CLIENT_PATH)
    """Client certificate for the control stream, where it asks for one."""
    hang_seconds: float = HANG_SECONDS
    """A module that is in one call for longer ends the process."""
    fairness: Fairness | None = None
    """Groups whose errors are compared; None where the model names none."""
    feedback_ids: int = 0
    """Answers remembered for labels that come later."""
    carbon_region: str = ""
    isolation: Isolation = Isolation.NONE
    host: str = "0.0.0.0"
    """Address that both servers listen on."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Settings from variables named ECO_*, and POD_NAME.

    Raises DataError naming the variable at fault.
    """

    def required(name: str) -> str:
        value = environ.get(name, "").strip()
        if not value:
            raise DataError(Code.SPEC_INVALID, f"{name} is not set; the operator sets it in the serving Deployment.")
        return value

    return Settings(
        namespace=required("ECO_NAMESPACE"),
        model=required("ECO_MODEL"),
        life=required("ECO_LIFE"),
        plan_uri=required("ECO_PLAN_URI"),
        artifacts_uri=environ.get("ECO_ARTIFACTS_URI", "") or f"file://{names.ARTIFACTS_PATH}",
        control_address=_address(environ.get("ECO_CONTROL_ADDRESS", "").strip()),
        control_server_name=environ.get("ECO_CONTROL_SERVER_NAME", "").strip(),
        analysis=_document("ECO_ANALYSIS", environ.get("ECO_ANALYSIS", ""), Analysis) or Analysis(),
        fairness=_document("ECO_FAIRNESS", environ.get("ECO_FAIRNESS", ""), Fairness),
        port=_port("ECO_PORT", environ.get("ECO_PORT", "") or str(DEFAULT_PORT)),
        grpc_port=_grpc_port(environ.get("ECO_GRPC_PORT", "") or str(DEFAULT_GRPC_PORT)),
        feedback_ids=_count("ECO_FEEDBACK_IDS", environ.get("ECO_FEEDBACK_IDS", "") or "0"),
        isolation=_isolation(environ.get("ECO_ISOLATION", "").strip() or Isolation.NONE.value),
        carbon_region=_region(environ.get("ECO_CARBON_REGION", "").strip()),
        pod=environ.get("POD_NAME", "") or socket.gethostname(),
        trust_dir=Path(environ.get("ECO_TRUST_DIR", "") or names.TRUST_PATH),
        token_file=Path(environ.get("ECO_TOKEN_FILE", "") or names.TOKEN_PATH),
        client_dir=Path(environ.get("ECO_CLIENT_DIR", "") or names.CLIENT_PATH),
        state_dir=Path(environ.get("ECO_STATE_DIR", "") or names.STATE_PATH),
        hang_seconds=_seconds("ECO_HANG_SECONDS", environ.get("ECO_HANG_SECONDS", "") or str(HANG_SECONDS)),
        routing_dir=Path(environ.get("ECO_ROUTING_DIR", "") or names.ROUTING_PATH),
    )


def _port(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise DataError(Code.SPEC_INVALID, f"{name} is {text[:40]!r}; it must be a port number from 1 to 65535.")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:
        raise DataError(Code.SPEC_INVALID, f"{name} is {text[:40]!r}; it must be a number of seconds from 0.1 to 3600.")
    return seconds


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 7:
        raise DataError(Code.SPEC_INVALID, f"{name} is {text[:40]!r}; it must be a number from 0 to 9999999.")
    return int(text)


def _isolation(text: str) -> Isolation:
    if text not in set(Isolation):
        raise DataError(
            Code.SPEC_INVALID, f"ECO_ISOLATION is {text[:40]!r}; use {' or '.join(each.value for each in Isolation)}."
        )
    return Isolation(text)


def _region(text: str) -> str:
    if text:
        try:
            intensity(text)
        except DataError as error:
            raise DataError(Code.SPEC_INVALID, f"ECO_CARBON_REGION: {error.message}") from error
    return text


def _grpc_port(text: str) -> int | None:
    return None if text == "0" else _port("ECO_GRPC_PORT", text)


def _address(text: str) -> str:
    if not text:
        return ""
    host, _, port = text.rpartition(":")
    if not host:
        raise DataError(Code.SPEC_INVALID, f"ECO_CONTROL_ADDRESS is {text[:100]!r}; it must be host:port, or empty.")
    _port("ECO_CONTROL_ADDRESS (its port)", port)
    return text


def _document(name: str, text: str, kind: type[Document]) -> Document | None:
    if not text.strip():
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(Code.SPEC_INVALID, f"{name}: {where}: {first['msg']}.") from error
