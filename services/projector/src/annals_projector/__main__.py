"""`python -m annals_projector`"""

from annals.web import serve
from annals_projector.app import create
from annals_projector.settings import ProjectorSettings

if __name__ == "__main__":
    settings = ProjectorSettings()
    serve(create(settings), settings, "projector")
