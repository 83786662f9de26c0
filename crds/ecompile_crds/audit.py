"""Audit log: a hash chain of every swap. Pure; storage is the caller's.

Each record holds the hash of the one before (RFC 6962 uses trees; a chain is enough for one writer), so removing,
reordering or editing any record but the last breaks verification, and the head digest in the HybridModel's status
covers the last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import Code, ModelError

GENESIS = "0" * 64


class AuditRecord(BaseModel):
    """One swap: which segment moved from what to what, why, on whose word."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    sequence: int = Field(ge=1)
    time: str
    """RFC 3339, UTC."""
    namespace: str
    model: str
    generation: int
    """Routing generation that brought the swap into force."""
    segment: int
    module: str | None = None
    bundle_digest: str | None = Field(default=None, alias="bundleDigest")
    before: str
    after: str
    actor: str
    """`operator` or `command:<token>`."""
    reason: str
    previous: str
    """Hash of the record before; 64 zeros in the first."""
    hash: str = ""

    def digest(self) -> str:
        """SHA-256 over the canonical JSON (sorted keys, no spaces) of all fields but `hash`."""
        body = self.model_dump(by_alias=True, exclude={"hash"}, mode="json")
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(record: AuditRecord) -> AuditRecord:
    """The record with its own hash filled in."""
    return record.model_copy(update={"hash": record.digest()})


def to_line(record: AuditRecord) -> str:
    return record.model_dump_json(by_alias=True)


def parse(lines: Iterable[str]) -> tuple[AuditRecord, ...]:
    """Records of a JSON-lines log.

    Raises ModelError (AUDIT_BROKEN) naming the line that is not a record.
    """
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(AuditRecord.model_validate_json(line))
        except ValidationError as error:
            raise ModelError(
                Code.AUDIT_BROKEN, f"audit log line {number} is not an audit record: {error.errors()[0]['msg']}."
            ) from error
    return tuple(records)


def verify(records: Sequence[AuditRecord], *, head: str | None = None) -> None:
    """Check the chain, and its last hash against `head` where one is given.

    Raises ModelError (AUDIT_BROKEN) naming the first record that does not fit.
    """
    previous = GENESIS
    for position, record in enumerate(records, 1):
        if record.sequence != position:
            raise ModelError(
                Code.AUDIT_BROKEN,
                f"audit record {position} carries sequence {record.sequence}: a record was removed, added or moved.",
            )
        if record.previous != previous:
            raise ModelError(Code.AUDIT_BROKEN, f"audit record {position} does not follow the one before it.")
        if record.hash != record.digest():
            raise ModelError(Code.AUDIT_BROKEN, f"audit record {position} was changed after it was written.")
        previous = record.hash
    if head is not None and head != previous:
        raise ModelError(
            Code.AUDIT_BROKEN,
            f"the log ends in {previous[:12]}, but the recorded head is {head[:12]}: records are missing.",
        )
