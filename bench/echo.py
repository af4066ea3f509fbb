"""
A server that decodes each request and answers it, and does nothing else: what a socket, the frames
and msgspec cost by themselves.  usage: python -m bench.echo SOCKET
"""

import socket
import sys

from queuectl.framing import FrameReader, pack_frame
from queuectl.messages import Request
from queuectl.protocol import Enqueue, Enqueued, decoder, encode

_READ_BYTES = 256 << 10


def serve(path: str) -> None:
    """
    Answer one connection after the other, for ever.
    """
    decode = decoder(Request).decode
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            reader = FrameReader()
            while data := connection.recv(_READ_BYTES):
                reader.feed(data)
                answers = [
                    pack_frame(encode(Enqueued(call=request.call, ids=["1"])))
                    for request in map(decode, reader)
                    if isinstance(request, Enqueue)
                ]
                connection.sendall(b"".join(answers))
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
