"""The process beside a node: its health pages, the checks behind them, its control socket."""
