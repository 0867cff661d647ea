"""Video servers on the loopback interface, each with its moods: HTTP, and a small RTSP that sends MPEG-TS over RTP."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CERTIFICATE = Path(__file__).parent / "certificates" / "loopback.pem"
TS_PACKET = 188
PACKETS_IN_RTP = 7


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    requests: list[str]
    """methods, of an RTSP server"""


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Run a server in a thread; yield its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def http_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> socketserver.BaseServer:
    """Every GET is given to `answer`; a client that goes away is no error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def with_tls(server: socketserver.BaseServer) -> socketserver.BaseServer:
    """The same server behind the certificate of CERTIFICATE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that does not trust it
    return server


def send(handler: http.server.BaseHTTPRequestHandler, data: bytes, *, length: bool, stall_s: float = 0.0) -> None:
    """A 200 with or without Content-Length; then nothing for a while, the connection open."""
    handler.send_response(200)
    if length:
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()
    time.sleep(stall_s)


def rtsp_server(transport_stream: bytes, *, stall_s: float = 0.0, max_clients: int = 100) -> socketserver.BaseServer:
    """DESCRIBE, SETUP over TCP, PLAY: the stream as fast as it is read, then silence, then the connection is closed.

    After max_clients connections every further one is closed at once.
    """
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=t\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"
    clients: list[object] = []
    requests: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            clients.append(self)
            if len(clients) > max_clients:
                return
            with contextlib.suppress(OSError):
                while request := self._request():
                    method, sequence = request
                    requests.append(method)
                    extra, body = "Session: 1\r\n", ""
                    if method == "OPTIONS":
                        extra = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                    elif method == "DESCRIBE":
                        extra, body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp
                    elif method == "SETUP":
                        extra += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                    self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{extra}\r\n{body}".encode())
                    if method == "PLAY":
                        self._play()
                        return

        def _request(self) -> tuple[str, str] | None:
            lines = []
            while (line := self.rfile.readline().decode("latin-1").strip()) or not lines:
                if not line:
                    return None
                lines.append(line)
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            return lines[0].split()[0], headers.get("cseq", "0")

        def _play(self) -> None:
            step = TS_PACKET * PACKETS_IN_RTP
            for index, start in enumerate(range(0, len(transport_stream), step)):
                header = struct.pack(">BBHII", 0x80, 33, index & 0xFFFF, index * 900, 1)
                packet = header + transport_stream[start : start + step]
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            self.wfile.flush()
            time.sleep(stall_s)

    server = _Server(("127.0.0.1", 0), Handler)
    server.requests = requests
    return server
