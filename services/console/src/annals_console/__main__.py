"""`python -m annals_console`"""

import sys

from prometheus_client import start_http_server
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
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, settings.host)
    serve(create(settings), settings, "console")
