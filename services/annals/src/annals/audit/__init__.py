"""Proof of the audit trail: signed checkpoints of the log, and the verification of every event."""

from annals.audit.checkpoint import Checkpoint, SigningKey, VerificationKeys, rolled
from annals.audit.checkpointer import Checkpointer
from annals.audit.stored import last_checkpoint, read_checkpoints
from annals.audit.verification import Finding, Progress, ReadCheckpoints, ReadLast, verify

__all__ = [
    "Checkpoint",
    "Checkpointer",
    "Finding",
    "Progress",
    "ReadCheckpoints",
    "ReadLast",
    "SigningKey",
    "VerificationKeys",
    "last_checkpoint",
    "read_checkpoints",
    "rolled",
    "verify",
]
