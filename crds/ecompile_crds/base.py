"""Base of the API types: camelCase names, unknown fields refused, and notes for the CRD generator."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """Immutable value with camelCase JSON names; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, alias_generator=to_camel)


class StatusModel(ApiModel):
    """Part of a status: fields that a later version wrote are left out instead of refused, so that going back to an
    earlier operator does not lose what it knows."""

    model_config = ConfigDict(extra="ignore")


def cel(*rules: tuple[str, str]) -> dict[str, Any]:
    """CEL rules (expression, message) for `json_schema_extra`; generated as x-kubernetes-validations."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}
