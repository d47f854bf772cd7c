"""A worker with little memory: `python narrow_worker.py FD`; SAMOVAR_TEST_ROOM says how many bytes.

The limit holds from when everything is imported.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from samovar.worker.main import serve

pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
most = pages * resource.getpagesize() + int(os.environ["SAMOVAR_TEST_ROOM"])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
raise SystemExit(int(serve(int(sys.argv[1]))))
