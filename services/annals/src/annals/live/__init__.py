"""Settings that an operator changes while a service runs."""

from annals.live.settings import Live, LiveSettings, NoSuchSetting, Setting, SettingRefused

__all__ = ["Live", "LiveSettings", "NoSuchSetting", "Setting", "SettingRefused"]
