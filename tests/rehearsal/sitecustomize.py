"""Python reads this file at each start of a process of the rehearsal, whose PYTHONPATH names this folder."""

import os

if "RETROBENCH_REHEARSAL" in os.environ:
    import pretend_device

    pretend_device.install_with_torch()
