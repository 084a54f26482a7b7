"""The read models: a file for each projection."""

from annals_projector.read_models.members import MEMBERS
from annals_projector.read_models.sagas import SAGAS
from annals_projector.read_models.tasks import TASKS

PROJECTIONS = (TASKS, MEMBERS, SAGAS)

__all__ = ["MEMBERS", "PROJECTIONS", "SAGAS", "TASKS"]
