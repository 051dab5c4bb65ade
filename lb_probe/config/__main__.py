"""Prints the JSON schema: `python -m lb_probe.config > docs/probes.schema.json`."""

import json
import sys

from lb_probe.config.schema import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
