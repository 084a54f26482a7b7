"""`python -m annals_saga_orchestrator`"""

from annals.web import serve
from annals_saga_orchestrator.app import create
from annals_saga_orchestrator.settings import SagaSettings

if __name__ == "__main__":
    settings = SagaSettings()
    serve(create(settings), settings, "saga-orchestrator")
