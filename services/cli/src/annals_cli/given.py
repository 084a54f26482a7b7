"""JSON that is given as an argument."""

from __future__ import annotations

import json
from typing import Any

from annals_cli.sidecar import Exit, Failed


class NotJson(Failed):
    """The text is not JSON."""


def json_of(text: str) -> Any:
    """Parse a text as JSON. Raises NotJson, and Failed for JSON that is beyond Python's limits."""

    def refuse(constant: str) -> None:
        raise json.JSONDecodeError(f"{constant} is not a JSON number", text, 0)

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise NotJson(f"the data is not JSON: {error}", Exit.USAGE) from error
    except (ValueError, RecursionError) as error:  # more digits or deeper nesting than Python takes
        raise Failed(f"the data cannot be read: {error}", Exit.USAGE) from error
