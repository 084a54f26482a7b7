"""The types of fields that commands share, with their bounds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from annals.events import Utc

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
"""An aggregate's id: letters, digits and . _ ~ @ : -"""

NewId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]*[A-Za-z0-9_~@:-][A-Za-z0-9._~@:-]*$", max_length=128),
]
"""The id of a new aggregate: not of dots alone, because `..` in a URL's path means something else."""

Title = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
Description = Annotated[str, StringConstraints(max_length=50_000)]
"""Bounded so that its event, in any script, fits the default limit of events (`annals.store.sizes`)."""

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
_FIRST_YEAR, _LAST_YEAR = 1900, 9998


def _reckonable(moment: datetime) -> datetime:
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"expected a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment


Moment = Annotated[Utc, AfterValidator(_reckonable)]
"""A moment in a year far from the limits of dates, kept in UTC: databases refuse an offset of 16 hours."""
