"""Runs the service: `python -m annals_notification`."""

from annals.web import serve
from annals_notification.app import create
from annals_notification.settings import NotificationSettings

if __name__ == "__main__":
    settings = NotificationSettings()
    serve(create(settings), settings, "notification")
