"""Keeps traffic on a healthy node of an active/standby pair; never moves it back by itself."""

__version__ = "0.1.0"
