"""The read model `members`."""

from __future__ import annotations

from annals.projections import Patch, Projection, Put, Table

MEMBERS = Projection(
    Table(
        "members",
        {"name": "text", "capacity": "integer", "reserved": "integer"},
        indexes=("(tenant, created_at, id)",),
    ),
    "member",
    {
        "member.registered": lambda event: Put(
            {"name": event.data["name"], "capacity": event.data["capacity"], "reserved": 0}
        ),
        "member.capacity_set": lambda event: Patch({"capacity": event.data["capacity"]}),
        "member.reserved": lambda event: Patch({"reserved": event.data["reserved"]}),
        "member.released": lambda event: Patch({"reserved": event.data["reserved"]}),
    },
)
