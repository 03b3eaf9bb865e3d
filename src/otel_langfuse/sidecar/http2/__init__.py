"""HTTP/2 as far as gRPC's unary calls need it: ``client`` sends one request at a time, ``server`` takes many.

The states (``client_state``; ``server`` with ``server_frames``) know bytes only; who uses them has the socket. ``frames`` and
``header_blocks`` have what both sides share.
"""

import logging

# At its level "debug" it would write down every header field, tokens among them.
logging.getLogger("hpack").setLevel(logging.WARNING)
