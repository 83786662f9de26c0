"""Signatures: ed25519 over an in-toto Statement in a DSSE envelope (in-toto Attestation v1, DSSE v1)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from ecompile_crds.errors import Code, ModelError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://ecompile.dev/compiled-module/v1"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding (DSSE v1): `DSSEv1 SP len SP type SP len SP payload`."""
    kind = payload_type.encode()
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])


def key_id(key: Ed25519PublicKey) -> str:
    """First 16 hex digits of the SHA-256 of the raw public key."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))
    return digest.finalize().hex()[:16]


def load_private(pem: bytes) -> Ed25519PrivateKey:
    """Raises ModelError where the PEM is not an ed25519 private key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise ModelError(Code.BUNDLE_UNTRUSTED, f"the signing key cannot be read: {error}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(Code.BUNDLE_UNTRUSTED, "the signing key is not an ed25519 key.")
    return key


def load_public(pem: bytes) -> Ed25519PublicKey:
    """Raises ModelError where the PEM is not an ed25519 public key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise ModelError(Code.BUNDLE_UNTRUSTED, f"the trusted key cannot be read: {error}.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ModelError(Code.BUNDLE_UNTRUSTED, "the trusted key is not an ed25519 key.")
    return key


def sign(subjects: dict[str, str], predicate: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """Envelope over a statement about files (name -> SHA-256 hex). Deterministic, as ed25519 is."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": key_id(key.public_key()),
                "sig": base64.b64encode(key.sign(pae(PAYLOAD_TYPE, payload))).decode(),
            }
        ],
    }
    return json.dumps(envelope, sort_keys=True).encode()


def verify(envelope: bytes, keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """The statement, once a trusted key's signature over it has been checked.

    Raises ModelError (BUNDLE_UNTRUSTED) otherwise.
    """
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        kind = document["payloadType"]
        signatures = [base64.b64decode(s["sig"], validate=True) for s in document["signatures"]]
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise ModelError(Code.BUNDLE_UNTRUSTED, "the attestation is not a DSSE envelope.") from error
    if kind != PAYLOAD_TYPE:
        raise ModelError(Code.BUNDLE_UNTRUSTED, f"the attestation has payload type {kind!r}, not {PAYLOAD_TYPE}.")
    if not any(_good(key, signature, payload) for key in keys for signature in signatures):
        raise ModelError(Code.BUNDLE_UNTRUSTED, "the attestation is not signed by a trusted key, or was altered.")
    statement: dict[str, Any] = json.loads(payload)
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PREDICATE_TYPE:
        raise ModelError(Code.BUNDLE_UNTRUSTED, "the attestation is not about a compiled module.")
    return statement


def _good(key: Ed25519PublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, pae(PAYLOAD_TYPE, payload))
    except InvalidSignature:
        return False
    return True
