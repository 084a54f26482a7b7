"""Dead letters: messages that a consumer gave up, kept with the events behind them until somebody decides."""

from annals.deadletters.dead_letters import (
    SETTLED_SECONDS,
    DeadLetters,
    DeadLettersDamaged,
    DeadLettersUnknown,
)
from annals.deadletters.index import MovedOn, TooManyParked, TooMuchEdited, UnknownLetter
from annals.deadletters.letter import DeadLetter, Detail, Kind, Status, of_event
from annals.deadletters.unreadable import Unreadable

__all__ = [
    "SETTLED_SECONDS",
    "DeadLetter",
    "DeadLetters",
    "DeadLettersDamaged",
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
