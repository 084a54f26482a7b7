"""Projections: fold events into the rows of read models, each batch once or not at all."""

from annals.projections.applier import Applier, ProjectionStalled
from annals.projections.changes import Change, Delete, Patch, Put, fold, merge
from annals.projections.database import BindingDatabase, DatabaseError, ReadModelDatabase
from annals.projections.migrations import migrate
from annals.projections.projection import Projection, Table
from annals.projections.sweeper import Sweeper
from annals.projections.visibility import Visibility

__all__ = [
    "Applier",
    "BindingDatabase",
    "Change",
    "DatabaseError",
    "Delete",
    "Patch",
    "Projection",
    "ProjectionStalled",
    "Put",
    "ReadModelDatabase",
    "Sweeper",
    "Table",
    "Visibility",
    "fold",
    "merge",
    "migrate",
]
