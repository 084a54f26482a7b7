"""Personal data: encrypted under a key of its subject, and unreadable once that key is shredded."""

from annals.privacy.ciphers import InvalidKeys, KeyEncryptionKeys, SubjectKey
from annals.privacy.personal import PERSONAL, Personal, SubjectErased, personal_fields
from annals.privacy.subject_keys import SubjectKeys

__all__ = [
    "PERSONAL",
    "InvalidKeys",
    "KeyEncryptionKeys",
    "Personal",
    "SubjectErased",
    "SubjectKey",
    "SubjectKeys",
    "personal_fields",
]
