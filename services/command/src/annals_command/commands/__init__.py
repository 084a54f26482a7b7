"""The use cases: what may be asked of tasks and members, and who decides it."""

from annals_command.commands import member_commands, task_commands

HANDLERS = (*task_commands.HANDLERS, *member_commands.HANDLERS)

__all__ = ["HANDLERS"]
