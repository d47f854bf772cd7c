"""Models that are loaded when the server starts, beside everything else that it does then."""

from __future__ import annotations

import logging

from samovar.config import RuntimeConfig
from samovar.errors import SamovarError
from samovar.server.served import Served

logger = logging.getLogger(__name__)


class Preloading:
    """Loads as many models as may be loaded at once, in the order in which they were named."""

    def __init__(self, served: Served, runtime: RuntimeConfig, *, is_on: bool) -> None:
        self._served = served
        self.names = served.names()[: max(1, runtime.max_models)] if is_on else []
        self.failures: dict[str, str] = {}
        """What went wrong, by model."""
        self.is_over = not self.names

    async def run(self) -> None:
        """Load them; what cannot be loaded is told, and does not keep the others away."""
        for name in self.names:
            try:
                await self._served.ready(name)
            except SamovarError as error:
                logger.error("%s cannot be loaded: %s", name, error)  # noqa: TRY400 - it says all
                self.failures[name] = str(error)
        self.is_over = True
