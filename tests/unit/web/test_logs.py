"""What the logs contain, and what they do not."""

from __future__ import annotations

import json
import subprocess
import sys

from annals.web.settings import ServiceSettings

_LOGS = """
import structlog, logging
from annals.telemetry import logs
logs.configure("test")
structlog.get_logger("x").info("command failed", user='ada\\n{"event": "made up"}', reason="\\r\\n\\u2028x")
logging.getLogger("y").warning("%s", 'a\\n{"event": "made up"}')
"""


def test_a_line_break_does_not_make_a_line() -> None:
    run = subprocess.run([sys.executable, "-c", _LOGS], capture_output=True, text=True, check=True)
    lines = run.stdout.removesuffix("\n").split("\n")
    assert [json.loads(line)["event"] for line in lines] == ["command failed", 'a\n{"event": "made up"}']


_ODD = """
import structlog
from annals.telemetry import logs
logs.configure("test")
log = structlog.get_logger("x")
log.error("by lane", applied={3: 17})
log.error("half a character \\udc80", text="\\udc80", listed=["\\udc80"], fine=True)
log.error("large", number=2**70, by_pair={(1, 2): 3})
"""


def test_whatever_is_logged_makes_its_line() -> None:
    run = subprocess.run([sys.executable, "-c", _ODD], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    lane, half, large = map(json.loads, run.stdout.splitlines())
    assert (lane["event"], lane["applied"]) == ("by lane", {"3": 17})
    assert (half["event"], half["level"], half["fine"]) == ("half a character \\udc80", "error", True)
    assert "udc80" in half["text"] and "udc80" in half["listed"]
    assert (large["number"], large["by_pair"]) == (str(2**70), "{(1, 2): 3}")


def test_settings_do_not_show_their_secrets() -> None:
    settings = ServiceSettings(app_api_token="right", dapr_api_token="other")  # type: ignore[arg-type]
    shown = repr(settings) + str(settings.model_dump()) + settings.model_dump_json()
    assert "right" not in shown
    assert "other" not in shown
