"""Queries on tasks and members."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from annals.dapr import Database
from annals.events import Utc
from annals.web import Problem
from annals.web.answers import json_answer
from annals.web.paging import Cursor, Limit, decode_cursor, page_that_fits
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import malformed
from annals_projector.queries.answers import Member, MemberPage, Task, TaskPage
from annals_projector.queries.parameters import Disclose, Tenant, UpToDate


class TaskSort(StrEnum):
    """The columns that tasks can be sorted by; a minus reverses the order."""

    CREATED = "created_at"
    CREATED_LAST = "-created_at"
    UPDATED = "updated_at"
    UPDATED_LAST = "-updated_at"
    DUE = "due"
    DUE_LAST = "-due"
    TITLE = "title"
    TITLE_LAST = "-title"


# The only SQL that a sort inserts. Rows are compared with a cursor and ordered by the same expression.
_SORTS = {
    "created_at": ("created_at", "timestamptz"),
    "updated_at": ("updated_at", "timestamptz"),
    "due": ("coalesce(due, 'infinity')", "timestamptz"),
    "title": ("title", "text"),
}

_ONE = """
SELECT json_build_object('row', (
  SELECT to_jsonb(found) - 'tenant' FROM readmodels.{table} found WHERE tenant = $1 AND id = $2))::text"""

_TASKS = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(t) - 'tenant' AS row, {key}::text AS sort_key, id FROM readmodels.tasks t
  WHERE tenant = $1
    AND ($2::text IS NULL OR assignee = $2)
    AND ($3::text IS NULL OR status = $3)
    AND ($4::text IS NULL OR priority = $4)
    AND ($5::text IS NULL OR tags @> jsonb_build_array($5::text))
    AND ($6::text IS NULL OR due >= $6::text::timestamptz)
    AND ($7::text IS NULL OR due < $7::text::timestamptz)
    AND ($8::text IS NULL OR to_tsvector('simple', title || ' ' || left(coalesce(description, ''), 100000))
         @@ websearch_to_tsquery('simple', $8))
    AND ($9::text IS NULL OR ({key}, id) {after} ($9::text::{kind}, $10::text))
  ORDER BY {key} {direction}, id {direction} LIMIT $11::text::integer) page"""

_MEMBERS = """
SELECT coalesce(json_agg(page), '[]')::text FROM (
  SELECT to_jsonb(m) - 'tenant' AS row, created_at::text AS sort_key, id FROM readmodels.members m
  WHERE tenant = $1 AND ($2::text IS NULL OR (created_at, id) > ($2::text::timestamptz, $3::text))
  ORDER BY created_at, id LIMIT $4::text::integer) page"""


def routes(database: Database, disclose: Disclose, up_to_date: UpToDate) -> APIRouter:
    """Return the routes under `/queries/tasks` and `/queries/members`."""
    router = APIRouter(prefix="/queries", dependencies=[Depends(up_to_date), REFUSE_UNKNOWN_PARAMETERS])

    async def one(table: str, tenant: str, row_id: str) -> dict[str, Any]:
        found = await database.fetch(_ONE.format(table=table), tenant, row_id)
        if found["row"] is None:
            raise Problem(404, "not-found", f"there is no {table.removesuffix('s')} {row_id}")
        return dict(found["row"])

    @router.get("/tasks/{task_id}", response_model=Task)
    async def task(tenant: Tenant, task_id: str) -> Response:
        """One task."""
        return json_answer(await one("tasks", tenant, task_id))

    @router.get("/members/{member_id}", response_model=Member)
    async def member(tenant: Tenant, member_id: str) -> Response:
        """One member."""
        return json_answer(await disclose(tenant, await one("members", tenant, member_id)))

    @router.get("/tasks", response_model=TaskPage)
    async def tasks(
        tenant: Tenant,
        assignee: str | None = None,
        status: str | None = None,
        priority: str | None = None,
        tag: str | None = None,
        due_from: Utc | None = None,
        due_to: Utc | None = None,
        text: Annotated[str | None, Query(max_length=500)] = None,
        sort: TaskSort = TaskSort.CREATED,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Tasks by assignee, status, priority, tag, due date and text."""
        key, kind = _SORTS[sort.removeprefix("-")]
        down = sort.startswith("-")
        sql = _TASKS.format(
            key=key, kind=kind, after="<" if down else ">", direction="DESC" if down else "ASC"
        )
        after = decode_cursor(cursor, str, datetime if kind == "timestamptz" else str, str)
        if after[0] not in (None, sort.value):
            raise malformed("cursor", "the `next` of a page of the same query")
        due = [moment.isoformat() if moment else None for moment in (due_from, due_to)]
        filters = (assignee, status, priority, tag, *due, text)
        return json_answer(
            await page_that_fits(
                lambda size: database.fetch(sql, tenant, *filters, *after[1:], str(size)), limit, sort.value
            )
        )

    @router.get("/members", response_model=MemberPage)
    async def members(tenant: Tenant, limit: Limit = 50, cursor: Cursor = None) -> Response:
        """Members, in the order they joined."""
        after = decode_cursor(cursor, str, datetime, str)
        found = await page_that_fits(
            lambda size: database.fetch(_MEMBERS, tenant, *after[1:], str(size)), limit, "created_at"
        )
        return json_answer(await disclose(tenant, found))

    return router
