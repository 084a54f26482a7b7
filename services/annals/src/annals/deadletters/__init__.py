"""Dead letters: what a consumer gave up is kept, with what waits behind it, until somebody decides."""

from annals.deadletters.dead_letters import (
    SETTLED_SECONDS,
    DeadLetters,
    DeadLettersUnknown,
    MovedOn,
    TooManyParked,
    TooMuchEdited,
    UnknownLetter,
)
from annals.deadletters.letter import DeadLetter, Detail, Kind, Status, of_event
from annals.deadletters.unreadable import Unreadable

__all__ = [
    "SETTLED_SECONDS",
    "DeadLetter",
    "DeadLetters",
    "DeadLettersUnknown",
    "Detail",
    "Kind",
    "MovedOn",
    "Status",
    "TooManyParked",
    "TooMuchEdited",
    "UnknownLetter",
    "Unreadable",
    "of_event",
]
