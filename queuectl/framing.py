"""
Frames on the socket: a 4-byte big-endian length, then that many bytes of msgpack.

No I/O and no msgpack here: bytes go in, whole payloads come out, however the kernel cut them.
"""

import struct
from collections.abc import Iterator

# The largest payload of one frame, in bytes. An atomic batch of jobs travels in one frame and must
# fit into one batch of the journal (8 MiB) after its fields were spelled out, so half of that. It
# also bounds what one connection can make the other side hold in memory.
FRAME_BYTES_MAX = 4 << 20

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size
_pack_length, _unpack_length = _LENGTH.pack, _LENGTH.unpack_from


class FrameTooLong(Exception):
    """
    A frame announced more bytes than FRAME_BYTES_MAX. The stream cannot be read any further.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"a frame of {size} bytes is over the limit of {FRAME_BYTES_MAX} bytes")
        self.size = size


def pack_frame(payload: bytes) -> bytes:
    """
    Return *payload* with its length in front. Raises FrameTooLong.
    """
    size = len(payload)
    if size > FRAME_BYTES_MAX:
        raise FrameTooLong(size)
    return _pack_length(size) + payload


class FrameReader:
    """
    Collects received bytes and gives back whole payloads, in order.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Where in the buffer the next frame starts. The bytes before it were already given out.
        self._start = 0

    def feed(self, data: bytes) -> None:
        """
        Add received bytes.
        """
        self._buffer += data

    def next_frame(self) -> bytearray | None:
        """
        Return the next whole payload, or None until more bytes are fed. Raises FrameTooLong.
        """
        buffer, start = self._buffer, self._start
        body = start + LENGTH_BYTES
        if len(buffer) >= body:
            (size,) = _unpack_length(buffer, start)
            if size > FRAME_BYTES_MAX:
                raise FrameTooLong(size)
            end = body + size
            if len(buffer) >= end:
                self._start = end
                return buffer[body:end]
        self._forget_given_out()
        return None

    def _forget_given_out(self) -> None:
        # Now, not when more comes: who sent a long frame and then nothing holds no memory for it.
        if self._start:
            del self._buffer[: self._start]
            self._start = 0

    def __iter__(self) -> Iterator[bytearray]:
        """
        Yield every whole payload fed so far.
        """
        while (frame := self.next_frame()) is not None:
            yield frame

    @property
    def pending_bytes(self) -> int:
        """
        How many received bytes belong to no whole frame yet.
        """
        return len(self._buffer) - self._start
