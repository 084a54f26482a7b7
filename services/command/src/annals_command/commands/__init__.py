"""The use cases: the commands on tasks, members, data subjects and operations, with their handlers."""

from annals_command.commands import member_commands, operation_commands, subject_commands, task_commands

HANDLERS = (
    *task_commands.HANDLERS,
    *member_commands.HANDLERS,
    *subject_commands.HANDLERS,
    *operation_commands.HANDLERS,
)

__all__ = ["HANDLERS"]
