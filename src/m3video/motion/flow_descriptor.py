"""HOF and MBH: being written."""
from typing import Any
FLOW_EPSILON = 0.1
hof_at: Any = None
hof_grid: Any = None
mbh_at: Any = None
mbh_grid: Any = None
