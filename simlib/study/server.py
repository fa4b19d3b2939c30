"""The connection of `make lab`'s JupyterLab server to the browser, which sends each message at once.

A slider's move comes back as several small messages. Without TCP_NODELAY, which jupyter_server 2 leaves off, Nagle's
algorithm keeps back all but the first until the browser acknowledges that one, and a browser that has nothing to send
does so 40 ms later (delayed ACK, RFC 1122 section 4.2.3.2): most of the time from slider to chart.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class Prompt(ZMQChannelsWebsocketConnection):
    """`jupyter lab --ServerApp.kernel_websocket_connection_class=simlib.study.server.Prompt`"""

    def connect(self) -> Any:  # a future or None, which the base class calls a coroutine
        self.websocket_handler.set_nodelay(True)
        return super().connect()
