"""Turns answers into text for people. Pure: values in, lines out; nothing is printed.

A module for each subject, so that a verb loads what it shows: `group`, `history`, `replay`,
`probe`, `acts`, `lists`, and of an agent `agent`, `agent_peers`, `agent_sync`. `text` says how a
value is written, `levels` how grave a thing is.
"""
