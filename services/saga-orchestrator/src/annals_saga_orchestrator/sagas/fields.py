"""The fields that the inputs of several sagas share, with their bounds."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
"""An aggregate's id: letters, digits and . _ ~ @ : -"""

Deadline = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=365))]
"""How long to wait for an answer, such as PT1H."""
