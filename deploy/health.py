"""Exit 0 when the node at the given address is ready to serve: ``python health.py 127.0.0.1:8001``."""

from __future__ import annotations

import sys

from tierwise.wire import InferenceClient


def main() -> None:
    """Ask once."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    with InferenceClient(address, timeout_s=3.0) as client:
        sys.exit(0 if client.live() and client.ready() else 1)


if __name__ == "__main__":
    main()
