"""Telemetry: logs, traces and metrics."""
