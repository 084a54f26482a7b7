"""The generations of read models: each is a table, and a view selects the one that answers queries.

The catalogue of generations is a table in the same database. Generations are created, switched and dropped in
single transactions under an advisory lock, so replicas that change the catalogue together take turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from annals.dapr import Database, DatabaseError
from annals.projections.projection import Projection
from annals.projections.tables import (
    LOCK,
    SETTLING,
    Generation,
    create_sql,
    index_sql,
    prepare_sql,
    retire_sql,
    table_name,
    view_sql,
)
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_REFRESH_SECONDS = 0.5
_SAY_SECONDS = 60.0

_LIST = f"""
SELECT coalesce(json_agg(json_build_object(
  'read_model', read_model, 'number', number, 'version', version, 'status', status,
  'reason', reason, 'automatic', automatic, 'throttle', throttle, 'caught_up', caught_up,
  'started_at', started_at,
  'settling', status = 'live' AND {SETTLING},
  'filled', coalesce(expires > now(), false),
  'progress', (SELECT coalesce(json_object_agg(lane, seq), '{{}}') FROM readmodels.build_progress reached
               WHERE reached.read_model = one.read_model AND reached.number = one.number),
  'columns', (SELECT coalesce(json_agg(attname), '[]') FROM pg_attribute
              WHERE attrelid = to_regclass(format('readmodels.%I', read_model || '_' || number))
                AND attnum > 0 AND NOT attisdropped))
  ORDER BY read_model, number), '[]')::text
FROM readmodels.generations one WHERE status <> 'dropped'"""


class GenerationStatus(StrEnum):
    """The status of a generation."""

    BUILDING = "building"
    """It is filled from the store and kept up to date; it can be switched to once it has caught up."""

    LIVE = "live"
    """It answers queries, and delivered events are written to it."""

    RETIRED = "retired"
    """It answered before, and is kept up to date from the store, so that it can be switched back to."""

    PAUSED = "paused"
    """Its building is halted."""

    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A generation as the catalogue has it; this code may not know its version."""

    read_model: str
    number: int
    version: int
    status: GenerationStatus
    reason: str
    automatic: bool
    """Whether it goes live by itself once it has caught up."""
    throttle: int | None
    """Most events a second that building it may take; None: no limit."""
    caught_up: bool
    started_at: str
    settling: bool
    """Whether it went live, but may lack events that replicas wrote to the previous one after the switch."""
    progress: Mapping[int, int]
    """The sequence up to which each lane was filled from the store."""
    filled: bool = False
    """Whether a replica, which must know its version, fills it now."""
    lacks: tuple[str, ...] = ()
    """The columns of this code's projection, of the same version, that its table does not have."""

    @property
    def unfilled(self) -> str:
        """Why this code, if its `Generations.generation` is None, cannot fill it."""
        if self.lacks:
            return (
                f"generation {self.number} of {self.read_model} has version {self.version}, as in this code,"
                f" but not the columns {', '.join(self.lacks)}: give the projection a higher version"
            )
        return f"this code does not know version {self.version} of {self.read_model}"


class Outdated(Exception):
    """This code cannot fill a table that it should: events must not be reported as applied."""


class Generations:
    """The catalogue, and this code's projections. Coroutines other than `run` raise DatabaseError."""

    def __init__(
        self,
        database: Database,
        projections: Iterable[Projection],
        patient: Database | None = None,
    ) -> None:
        """`patient` is the same database with a time limit of minutes, for making indexes.

        Raises ValueError for two projections of the same table and version, one of which would get no events,
        and for a table with the name of another's generation.
        """
        self._database = database
        self._patient = patient or database
        self._projections: dict[tuple[str, int], Projection] = {}
        for one in projections:
            if self._projections.setdefault((one.table.name, one.version), one) is not one:
                raise ValueError(f"two projections make version {one.version} of {one.table.name}")
        names = {name for name, _ in self._projections}
        for name in names:
            other, _, number = name.rpartition("_")
            if other in names and number.isdecimal():
                raise ValueError(f"{name} is the name of a generation of {other}")
        self.all: Sequence[CatalogueEntry] = ()
        self._live: tuple[Generation, ...] | None = None
        self._foreign: CatalogueEntry | None = None
        self._lacking: Sequence[CatalogueEntry] = ()

    async def prepare(self) -> None:
        """Make what is missing, so that every read model has a generation of this code's version.

        If the read model is new to an installation with events, or its version is higher than the live one,
        the generation is built from the store and goes live when it has caught up. So does a generation that
        was live before, once its release comes back; but not while replicas of that release still run, from
        which an operator went back. Only an operator switches to a lower version, because replicas of an
        older release may restart during an upgrade.
        """
        for read_model in {name for name, _ in self._projections}:
            newest = max(
                (one for (name, _), one in self._projections.items() if name == read_model),
                key=lambda projection: projection.version,
            )
            await self._database.execute(prepare_sql(newest))
        await self.refresh()

    async def run(self) -> None:
        """Read the catalogue again and again until cancelled; each minute, warn of retired read models."""
        say_at = 0.0
        said = Said()
        while True:
            try:
                await self.refresh()
                said.is_over()
                for one in self._lacking:
                    if said.is_news(one.unfilled, (one.read_model, one.number)):
                        _log.error("a table of a read model is not filled", reason=one.unfilled)
            except DatabaseError as error:
                if said.is_news(error):
                    _log.warning("the catalogue of read models cannot be read now", error=str(error))
            if time.monotonic() >= say_at:
                say_at = time.monotonic() + _SAY_SECONDS
                self._say_what_is_retired()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read the catalogue."""
        rows = await self._database.fetch(_LIST)
        self.all = tuple(self._entry(**row) for row in rows)
        used = (GenerationStatus.LIVE, GenerationStatus.BUILDING)
        self._lacking = tuple(one for one in self.all if one.lacks and one.status in used)
        live = [one for one in self.all if one.status is GenerationStatus.LIVE]
        self._foreign = next((one for one in live if self.generation(one) is None), None)
        self._live = tuple(generation for one in live if (generation := self.generation(one)) is not None)

    def _entry(self, *, columns: Sequence[str], **row: Any) -> CatalogueEntry:
        projection = self._projections.get((row["read_model"], row["version"]))
        # A table that was dropped since the catalogue was read has no columns at all.
        lacks = sorted(projection.table.columns.keys() - columns) if projection and columns else ()
        progress = {int(lane): seq for lane, seq in row["progress"].items()}
        changed = {"status": GenerationStatus(row["status"]), "progress": progress, "lacks": tuple(lacks)}
        return CatalogueEntry(**row | changed)

    def _say_what_is_retired(self) -> None:
        """Warn of each retired read model of this code, if none of its generations is live or about to be.

        Nothing else shows this, because after a `retire` replicas of this release must go on for a while.
        """
        for read_model in sorted({name for name, _ in self._projections}):
            of_it = [one for one in self.all if one.read_model == read_model]
            retired = [
                one for one in of_it if one.status is GenerationStatus.RETIRED and self.generation(one)
            ]
            if retired and not any(one.status is GenerationStatus.LIVE or one.automatic for one in of_it):
                _log.warning(
                    "a read model is retired: delivered events are not written to it",
                    read_model=read_model,
                    to_have_it_again=f"annals projections switch {read_model} {retired[-1].number}",
                )

    @property
    def live(self) -> tuple[Generation, ...]:
        """The tables that answer queries. Raises Outdated, also until the catalogue has been read."""
        if self._live is None:
            raise Outdated("the catalogue of read models has not been read yet")
        for one in self._lacking:
            if one.status is GenerationStatus.LIVE:
                # One statement fills all live tables: PostgreSQL would refuse each event, also of the others.
                raise Outdated(one.unfilled)
        if self._foreign is not None:
            one = self._foreign
            raise Outdated(
                f"version {one.version} of {one.read_model}, which this code does not know, answers queries:"
                f" {self._way_out(one)}"
            )
        return self._live

    def _way_out(self, foreign: CatalogueEntry) -> str:
        name = foreign.read_model
        if self.newest(name) is None:
            return f"retire its generation {foreign.number} to do without the read model"
        own = [one for one in self.all if one.read_model == name and self.generation(one) is not None]
        if not own:
            return "a projector of this version builds it when it starts"
        if own[-1].automatic and own[-1].status is GenerationStatus.BUILDING:
            return f"generation {own[-1].number} is switched to when it has caught up"
        return f"switch to generation {own[-1].number} when it has caught up"

    def generation(self, known: CatalogueEntry) -> Generation | None:
        """Return a generation with its projection, or None if this code cannot fill it.

        This code cannot fill a generation of a version that it does not have, or whose table lacks a column.
        """
        projection = self._projections.get((known.read_model, known.version))
        return None if projection is None or known.lacks else Generation(projection, known.number)

    def newest(self, read_model: str) -> Projection | None:
        """Return the projection that builds new generations of a read model; None if this code has none."""
        versions = [one for (name, _), one in self._projections.items() if name == read_model]
        return max(versions, key=lambda projection: projection.version, default=None)

    def find(self, read_model: str, number: int) -> CatalogueEntry | None:
        """Return a generation as of the last read of the catalogue, or None."""
        return next((one for one in self.all if (one.read_model, one.number) == (read_model, number)), None)

    async def create(self, projection: Projection, reason: str) -> int:
        """Make a generation to be built, and return its number.

        If one of the same version is being built or is paused, return its number instead. Those of other
        versions do not count, because this code could not fill them.
        """
        name, version = projection.table.name, projection.version
        await self._database.execute(
            f"SELECT pg_advisory_xact_lock({LOCK});"
            f"DO $create$ BEGIN IF NOT EXISTS (SELECT FROM readmodels.generations"
            f" WHERE read_model = '{name}' AND version = {version} AND status IN ('building', 'paused'))"
            f" THEN {create_sql(projection, 'building', reason)} END IF; END $create$"
        )
        await self.refresh()
        return next(
            one.number
            for one in self.all
            if (one.read_model, one.version) == (name, version)
            and one.status in (GenerationStatus.BUILDING, GenerationStatus.PAUSED)
        )

    async def index(self, generation: Generation) -> None:
        """Make the indexes of a table that was filled without them. A repeat changes nothing."""
        statements = index_sql(generation.projection.table, str(generation.number))
        if statements:
            await self._patient.execute(";".join(statements))

    async def switch(self, to: CatalogueEntry, *, automatic: bool = False) -> None:
        """Make another generation live, and retire the live one. Does nothing if `to` is live already.

        With `automatic`, it also does nothing if `to` is not to go live by itself any more, because another
        generation of its version or of a later one has gone live.
        """
        name = to.read_model
        may = (
            "status = 'building' AND automatic"
            if automatic
            else "status IN ('building', 'paused', 'retired')"
        )
        await self._database.execute(
            f"""SELECT pg_advisory_xact_lock({LOCK});
DO $switch$ BEGIN
  IF EXISTS (SELECT FROM readmodels.generations WHERE read_model = '{name}' AND number = {to.number}
             AND {may}) THEN
    {retire_sql(name)}
    UPDATE readmodels.generations SET status = 'live', switched_at = now()
      WHERE read_model = '{name}' AND number = {to.number};
    UPDATE readmodels.generations SET automatic = false
      WHERE read_model = '{name}' AND version <= {to.version};
    {view_sql(name)}
  END IF;
END $switch$"""
        )
        await self.refresh()

    async def retire(self, known: CatalogueEntry) -> None:
        """Retire a live generation without a successor: deliveries are no longer written to the read model.

        Until it is dropped, the table is kept up to date from the store, and the view still shows it.
        """
        name = known.read_model
        await self._database.execute(
            f"""SELECT pg_advisory_xact_lock({LOCK});
DO $retire$ BEGIN
  IF EXISTS (SELECT FROM readmodels.generations WHERE read_model = '{name}' AND number = {known.number}
             AND status = 'live') THEN
    {retire_sql(name)}
  END IF;
END $retire$"""
        )
        await self.refresh()

    async def throttle(self, known: CatalogueEntry, events_a_second: int | None) -> None:
        """Limit the building of a generation to so many events a second; None removes the limit."""
        limit = "NULL" if events_a_second is None else str(int(events_a_second))
        await self._database.execute(
            f"UPDATE readmodels.generations SET throttle = {limit}"
            f" WHERE read_model = '{known.read_model}' AND number = {known.number}"
        )
        await self.refresh()

    async def set_status(self, known: CatalogueEntry, status: GenerationStatus) -> None:
        """Pause, resume or drop a generation; a live one is left alone if this code has its read model."""
        name = known.read_model
        kept = "'dropped'" if self.newest(name) is None else "'live', 'dropped'"
        table = table_name(name, known.number)
        # The view goes with the table that it selects from, or with the last generation that could answer.
        drop = (
            f"IF EXISTS (SELECT FROM information_schema.view_table_usage WHERE view_schema = 'readmodels'"
            f" AND view_name = '{name}' AND table_schema = 'readmodels' AND table_name = '{table}')"
            f" OR NOT EXISTS (SELECT FROM readmodels.generations"
            f" WHERE read_model = '{name}' AND status IN ('live', 'retired'))"
            f" THEN DROP VIEW IF EXISTS readmodels.{name}; END IF;"
            f"DROP TABLE IF EXISTS readmodels.{table};"
            f"DELETE FROM readmodels.build_progress WHERE read_model = '{name}' AND number = {known.number};"
            if status is GenerationStatus.DROPPED
            else ""
        )
        await self._database.execute(
            f"""SELECT pg_advisory_xact_lock({LOCK});
DO $status$ BEGIN
  IF EXISTS (SELECT FROM readmodels.generations WHERE read_model = '{name}' AND number = {known.number}
             AND status NOT IN ({kept})) THEN
    UPDATE readmodels.generations SET status = '{status}'
      WHERE read_model = '{name}' AND number = {known.number};
    {drop}
  END IF;
END $status$"""
        )
        await self.refresh()
