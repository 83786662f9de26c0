"""Generated files are current, examples are valid, the audit chain holds, reports fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ecompile_crds import audit
from ecompile_crds.errors import EXIT_STATUS, Code, EcompileError
from ecompile_crds.hybridmodel import HybridModel
from ecompile_crds.jobs import TERMINATION_MESSAGE_LIMIT_BYTES, Failure, JobResult
from ecompile_crds.verify import stale

ROOT = Path(__file__).parents[3]


def make_log(count: int = 5) -> list[audit.AuditRecord]:
    records: list[audit.AuditRecord] = []
    for index in range(count):
        previous = records[-1].hash if records else audit.GENESIS
        records.append(
            audit.seal(
                audit.AuditRecord(
                    sequence=index + 1,
                    time="2026-01-01T00:00:00Z",
                    namespace="default",
                    model="digits",
                    generation=index + 1,
                    segment=0,
                    before="neural",
                    after="shadow",
                    actor="operator",
                    reason="because",
                    previous=previous,
                )
            )
        )
    return records


def test_generated_files_are_current() -> None:
    assert stale(ROOT) == []


def test_examples_are_valid() -> None:
    found = [
        document
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "HybridModel"
    ]
    assert found
    for document in found:
        HybridModel.model_validate(document)


def test_every_code_has_an_exit_status() -> None:
    assert all(int(code) // 1000 in EXIT_STATUS for code in Code)


def test_intact_log_verifies() -> None:
    records = make_log()
    audit.verify(records, head=records[-1].hash)
    assert audit.parse(map(audit.to_line, records)) == tuple(records)


@pytest.mark.parametrize("victim", range(5))
@pytest.mark.parametrize("change", [{"after": "compiled"}, {"reason": "other"}, {"time": "2027"}, {"generation": 99}])
def test_any_edited_record_is_found(victim: int, change: dict[str, object]) -> None:
    records = make_log()
    records[victim] = records[victim].model_copy(update=change)
    with pytest.raises(EcompileError, match=f"audit record {victim + 1}"):
        audit.verify(records)


@pytest.mark.parametrize("victim", range(4))
def test_any_removed_record_is_found(victim: int) -> None:
    records = make_log()
    del records[victim]
    with pytest.raises(EcompileError, match="audit record"):
        audit.verify(records)


def test_cut_off_end_is_found_by_the_head() -> None:
    records = make_log()
    with pytest.raises(EcompileError, match="records are missing"):
        audit.verify(records[:-1], head=records[-1].hash)


def test_job_result_fits_the_termination_message() -> None:
    failure = Failure(code=Code.INTERNAL, message="x" * 100_000, retryable=True)
    assert len(JobResult(failure=failure).to_message().encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
