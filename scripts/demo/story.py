"""The demo's week: who works on what, and what becomes of it. Times are hours from now."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Person:
    """A member; `capacity` is the number of tasks they can hold."""

    id: str
    name: str
    capacity: int


@dataclass(frozen=True, slots=True)
class Item:
    """A task, and what happens to it after its creation."""

    id: str
    title: str
    project: str
    due: float | None
    by: str
    to: str | None = None
    priority: str = "normal"
    text: str | None = None
    done: bool = False
    edits: tuple[dict[str, object], ...] = ()
    moved: float | None = None
    reopened: bool = False
    more: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Handover:
    """A hand-over of a task to somebody; `answer` is None if they do not answer."""

    task: str
    by: str
    to: str
    answer: str | None
    deadline: str = "P1D"


PEOPLE = (
    Person("ada", "Ada Okafor", 6),
    Person("ben", "Ben Lindqvist", 4),
    Person("chiara", "Chiara Romano", 5),
    Person("dmitri", "Dmitri Volkov", 3),
    Person("esme", "Esme Tanaka", 8),
    Person("farid", "Farid Haddad", 4),
    Person("you", "You", 5),
)

_LAUNCH = (
    Item(
        "press-kit",
        "Finish the press kit",
        "launch",
        6,
        "ada",
        "chiara",
        "high",
        "Logos, three screenshots, and the paragraph that legal approved. Monday's draft had the old logo.",
        edits=({"priority": "critical"}, {"title": "Finish the press kit, with the new logo"}),
    ),
    Item(
        "launch-post",
        "Write the launch post",
        "launch",
        20,
        "ada",
        "esme",
        "high",
        "Say what it does in the first sentence. Two customers have agreed to be named.",
    ),
    Item("pricing-page", "Put the new prices on the page", "launch", 30, "chiara", None, "high", moved=54),
    Item(
        "demo-video",
        "Record the two-minute demo",
        "launch",
        50,
        "chiara",
        None,
        text="On the staging suite, after the week's data is in.",
    ),
    Item("beta-letters", "Thank the beta customers", "launch", -20, "esme", "esme", done=True),
    Item(
        "launch-checklist",
        "Go through the launch checklist",
        "launch",
        72,
        "ada",
        None,
        "critical",
        more=("milestone",),
    ),
    Item("status-page", "Set up the status page", "launch", -44, "farid", "farid", done=True),
    Item("faq", "Answer the twelve questions that come up most", "launch", 40, "esme", "esme", "low"),
)
_BILLING = (
    Item(
        "invoice-rounding",
        "Invoices are off by a cent",
        "billing",
        -3,
        "ben",
        None,
        "critical",
        "Seen at three customers, all with more than one tax rate. The sum is rounded twice.",
        edits=({"tags": ["billing", "bug", "customer"]},),
    ),
    Item("dunning", "Stop reminding customers who have paid", "billing", 16, "ben", "ben", "high"),
    Item("tax-report", "Quarterly tax report", "billing", 96, "dmitri", "dmitri", "high", moved=120),
    Item("card-expiry", "Tell customers before their card runs out", "billing", 60, "ben", None),
    Item("refund-flow", "A refund without a support ticket", "billing", 140, "dmitri", "ben", "low"),
    Item(
        "ledger-export",
        "Export the ledger for the auditors",
        "billing",
        -30,
        "dmitri",
        "dmitri",
        done=True,
        reopened=True,
        text="They want one file a month, in their own columns.",
    ),
    Item("old-plans", "Move the last eleven customers off the old plans", "billing", 30, "ben", "dmitri"),
)
_SUPPORT = (
    Item(
        "sso-locked-out",
        "Customer locked out after changing their SSO",
        "support",
        2,
        "farid",
        "farid",
        "critical",
        "Waits since 7:40. Their administrator is in a plane until noon.",
    ),
    Item(
        "slow-search",
        "Search takes eight seconds for a large account",
        "support",
        12,
        "farid",
        None,
        "high",
        "Only with more than a hundred tags. The trace shows one query.",
    ),
    Item("escalations", "Look at last week's escalations", "support", -8, "esme", "esme", done=True),
    Item("macros", "Rewrite the answers that nobody understands", "support", 80, "esme", None, "low"),
    Item(
        "import-stuck",
        "An import has been stuck since Tuesday",
        "support",
        -26,
        "farid",
        "ada",
        "high",
        done=True,
    ),
    Item(
        "webhook-signatures",
        "Explain webhook signatures",
        "support",
        36,
        "farid",
        "farid",
        text="With an example in each of the four languages.",
    ),
)
_INFRA = (
    Item(
        "backup-drill",
        "Restore a backup, and time it",
        "infra",
        26,
        "dmitri",
        "dmitri",
        "high",
        "Into an empty store. The audit trail must verify afterwards.",
        more=("drill",),
    ),
    Item("certificates", "Renew the certificates", "infra", -12, "dmitri", "dmitri", "critical", done=True),
    Item("disk-alert", "The disk alert that cried wolf", "infra", 48, "ada", None, "low"),
    Item(
        "postgres-upgrade",
        "Upgrade PostgreSQL",
        "infra",
        168,
        "ada",
        "dmitri",
        text="Rehearse it on staging first. The replica goes first, the primary on Sunday.",
    ),
    Item("on-call-handbook", "Bring the on-call handbook up to date", "infra", 100, "ada", "ada"),
    Item("log-costs", "Find out who logs four gigabytes an hour", "infra", 10, "dmitri", "ada", "high"),
    Item("tls-audit", "Answer the auditors' questions on TLS", "infra", 55, "ada", None),
)
_HIRING = (
    Item("sre-interviews", "Interviews for the SRE role", "hiring", 22, "ada", "ada", "high"),
    Item(
        "offer-letter",
        "Offer letter for Noor",
        "hiring",
        4,
        "esme",
        None,
        "high",
        "She has another offer until Friday.",
    ),
    Item("onboarding", "Onboarding plan for the first two weeks", "hiring", 130, "esme", "esme"),
    Item("job-ad", "Take down the old job advertisement", "hiring", -50, "esme", "chiara", "low", done=True),
)
_ROUTINE = (
    Item("water-plants", "Water the plants on the third floor", "office", 1, "chiara", None, "low"),
    Item("team-lunch", "Find a place for the team lunch", "office", 28, "chiara", "chiara", "low"),
    Item("fire-drill", "Tell everybody about the fire drill", "office", -4, "chiara", "chiara", done=True),
    Item("desk-numbers", "New desk numbers", "office", None, "chiara", None, "low"),
    Item(
        "board-slides",
        "Slides for the board",
        "office",
        44,
        "ada",
        "ada",
        "critical",
        edits=({"description": "Ten slides at most. Revenue first, then what we got wrong."},),
    ),
)

ITEMS = (*_LAUNCH, *_BILLING, *_SUPPORT, *_INFRA, *_HIRING, *_ROUTINE)

HANDOVERS = (
    Handover("pricing-page", "ada", "chiara", "accept"),
    Handover("invoice-rounding", "ada", "dmitri", "decline"),
    Handover("invoice-rounding", "ada", "ben", "accept"),
    Handover("slow-search", "farid", "dmitri", "decline"),
    Handover("macros", "esme", "farid", None, deadline="PT3S"),
    Handover("tls-audit", "ada", "you", None, deadline="P2D"),
    Handover("offer-letter", "esme", "ada", None),
    Handover("demo-video", "chiara", "esme", None),
    Handover("card-expiry", "ben", "nobody-of-that-name", None),
)
"""The hand-overs in order: a second one of the same task begins when the first has ended."""

TERMINATED = Handover("disk-alert", "ada", "farid", None)
"""A hand-over that is terminated half-way: it counts as failed, and some steps remain to be compensated."""

RECURRING = (
    ("stand-up-notes", "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR", "Stand-up notes"),
    ("weekly-report", "FREQ=WEEKLY;BYDAY=FR", "Weekly report to the board"),
    ("rotate-on-call", "FREQ=WEEKLY;BYDAY=MO", "Hand the pager on"),
    ("invoice-run", "FREQ=MONTHLY;BYMONTHDAY=1", "Check the invoice run"),
)

POISONED = "imported-legacy-ticket"
"""A task that an old importer wrote with an invalid due date: no read model can apply it."""
POISON = {"title": "Ticket 4711, from the old system", "due": "next Tuesday or so"}
