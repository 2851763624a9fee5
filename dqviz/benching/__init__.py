"""Times on this machine: kernels at a model's own shapes and one whole evaluation, beside named peers; tables that `auto` decides by.

One file for each thing: what may be asked (`request.py`), a model or its shapes (`subject.py`), the stop watch
(`timing.py`), one layer in every way (`linears.py`, `peers.py`), one evaluation (`evaluations.py`), the peaks that times
are held against (`peaks.py`), tables of a device by op (`tuning.py`, `floats.py`, `heads.py`) and tiles of a GPU (`tiling.py`,
`float_tiling.py`), on disk (`stored.py`), all of it in order (`run.py`) and told (`rows.py`).
"""

from .request import BenchRequest
from .run import bench

__all__ = ["BenchRequest", "bench"]
