"""What every HTTP service is built from: the application, its settings, problems and serving."""

from annals.web.app import ServiceApp, create_app
from annals.web.problems import Problem, problem_response
from annals.web.serve import serve
from annals.web.settings import ServiceSettings

__all__ = ["Problem", "ServiceApp", "ServiceSettings", "create_app", "problem_response", "serve"]
