"""Which files of the product a training step enters: python -m tests.support.trace OUT FLAGS...

Functions alone count: what a module does when it is imported is not a step's.
"""

import inspect
import json
import sys
import threading
from pathlib import Path

from bench.house import ROOT, product


def main() -> None:
    out, *flags = sys.argv[1:]
    files, entered = {str(ROOT / path) for path in product()}, set()

    def note(frame, event, _) -> None:
        code = frame.f_code
        # The body of a class or a module has local names of another kind.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename in files:
            entered.add(code.co_filename)

    sys.argv = ["train.py", *flags]
    import train

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        train.main()
    finally:
        sys.setprofile(None)
        Path(out).write_text(json.dumps(sorted(str(Path(f).relative_to(ROOT)) for f in entered)))


if __name__ == "__main__":
    main()
