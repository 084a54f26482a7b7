"""`python -m annals_command`"""

from annals.web import serve
from annals_command.app import create
from annals_command.settings import CommandSettings

if __name__ == "__main__":
    settings = CommandSettings()
    serve(create(settings), settings, "command")
