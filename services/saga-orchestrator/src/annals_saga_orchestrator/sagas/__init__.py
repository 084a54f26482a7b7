"""The sagas of this orchestrator, one file each."""

from annals.sagas import SagaCatalog
from annals_saga_orchestrator.sagas.capacity_release import CAPACITY_RELEASE, CAPACITY_RELEASE_1
from annals_saga_orchestrator.sagas.member_offboarding import MEMBER_OFFBOARDING, MEMBER_OFFBOARDING_1
from annals_saga_orchestrator.sagas.task_handover import TASK_HANDOVER

CATALOG = SagaCatalog(
    TASK_HANDOVER, MEMBER_OFFBOARDING, MEMBER_OFFBOARDING_1, CAPACITY_RELEASE, CAPACITY_RELEASE_1
)

__all__ = ["CATALOG"]
