"""The operator's page: what is the case, why, and what to press.

`site` has the routes, `board` what is drawn and sent, `card` the words, `draw` the drawings,
`levels` how grave a condition is, `traces` what is remembered. `templates/` places the words,
`static/` has the one module that keeps a page live, and its styles.

Source: DESIGN section 7; docs/page.md is the page for people.
"""

from lb_probe.admin.page.site import Site

__all__ = ["Site"]
