"""``akool-dagster`` with the fail-points installed."""

from __future__ import annotations

import os

from akool_dagster.cli import main
from tests.e2e.chaos import failpoints

if __name__ == "__main__":
    failpoints.install_if_asked(dict(os.environ))
    main(prog_name="akool-dagster")
