"""Projections: fold events into the rows of read models, each batch once or not at all."""

from annals.projections.applier import Applier, ProjectionStalled
from annals.projections.builder import Builder
from annals.projections.changes import Change, Delete, Patch, Put, fold, merge
from annals.projections.comparison import difference
from annals.projections.generations import Generations, GenerationStatus, Outdated
from annals.projections.migrations import migrate, until_reached
from annals.projections.projection import Projection, Table
from annals.projections.replays import Replays
from annals.projections.sweeper import Sweeper
from annals.projections.tables import Generation
from annals.projections.visibility import Visibility

__all__ = [
    "Applier",
    "Builder",
    "Change",
    "Delete",
    "Generation",
    "GenerationStatus",
    "Generations",
    "Outdated",
    "Patch",
    "Projection",
    "ProjectionStalled",
    "Put",
    "Replays",
    "Sweeper",
    "Table",
    "Visibility",
    "difference",
    "fold",
    "merge",
    "migrate",
    "until_reached",
]
