"""Settings of the serving pod, from environment variables that the operator sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ecompile_crds.errors import Code, DataError
from ecompile_crds.hybridmodel import Analysis
from ecompile_crds.names import ROUTING_PATH, TOKEN_PATH, TRUST_PATH
from pydantic import ValidationError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One field per variable."""

    namespace: str
    model: str
    life: str
    plan_uri: str
    pod: str
    analysis: Analysis
    control_address: str = ""
    """host:port of the operator; empty: no operator."""
    port: int = 8080
    trust: Path = Path(TRUST_PATH)
    token: Path = Path(TOKEN_PATH)
    routing: Path = Path(ROUTING_PATH)


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises DataError (SPEC_INVALID) naming the variable.
    """

    def required(name: str) -> str:
        if not environ.get(name):
            raise DataError(Code.SPEC_INVALID, f"environment variable {name} is not set.")
        return environ[name]

    try:
        analysis = Analysis.model_validate_json(environ.get("ECO_ANALYSIS") or "{}")
    except ValidationError as error:
        raise DataError(Code.SPEC_INVALID, f"environment variable ECO_ANALYSIS: {error.errors()[0]['msg']}.") from error
    port = environ.get("ECO_PORT", "8080")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise DataError(Code.SPEC_INVALID, f"environment variable ECO_PORT: {port!r} is not a port.")
    return Settings(
        namespace=required("ECO_NAMESPACE"),
        model=required("ECO_MODEL"),
        life=required("ECO_LIFE"),
        plan_uri=required("ECO_PLAN_URI"),
        pod=environ.get("POD_NAME", "local"),
        analysis=analysis,
        control_address=environ.get("ECO_CONTROL_ADDRESS", ""),
        port=int(port),
        trust=Path(environ.get("ECO_TRUST_DIR", TRUST_PATH)),
        token=Path(environ.get("ECO_TOKEN_FILE", TOKEN_PATH)),
        routing=Path(environ.get("ECO_ROUTING_DIR", ROUTING_PATH)),
    )
