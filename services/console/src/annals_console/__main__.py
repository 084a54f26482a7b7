"""`python -m annals_console`"""

import sys

from pydantic import ValidationError

from annals.web import serve
from annals_console.app import create
from annals_console.settings import ConsoleSettings

if __name__ == "__main__":
    try:
        settings = ConsoleSettings()
    except ValidationError as error:
        reasons = (one["msg"].removeprefix("Value error, ") for one in error.errors())
        sys.exit("\n".join(f"The console does not start: {reason}" for reason in reasons))
    serve(create(settings), settings, "console")
