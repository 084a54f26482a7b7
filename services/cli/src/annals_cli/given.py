"""JSON that somebody gives as an argument."""

from __future__ import annotations

import json
from typing import Any

from annals_cli.sidecar import Exit, Failed


class NotJson(Failed):
    """It is a text of some other kind."""


def json_of(text: str) -> Any:
    """What a text holds. Raises NotJson, and Failed for JSON that nobody reads as it is written."""

    def refuse(constant: str) -> None:
        raise json.JSONDecodeError(f"{constant} is no number of JSON", text, 0)

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise NotJson(f"the data is not JSON: {error}", Exit.USAGE) from error
    except (ValueError, RecursionError) as error:  # more digits, or nested deeper, than Python takes
        raise Failed(f"the data cannot be read: {error}", Exit.USAGE) from error
