"""`python -m annals_cli`: runs the program where it is not installed as `annals`."""

from annals_cli.main import run

run()
