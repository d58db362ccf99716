"""What follows a run, in one explicit order: everything that is derived from its results folder."""

from __future__ import annotations

import lightning.pytorch as pl


class Report(pl.Callback):
    """Makes everything that derives from the results, once they are written."""

    failed = False
