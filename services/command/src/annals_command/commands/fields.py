"""The fields that commands share, with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
"""An aggregate's id: letters, digits and . _ ~ @ : -"""

Title = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
Description = Annotated[str, StringConstraints(max_length=1_000_000)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
Moment = AwareDatetime
