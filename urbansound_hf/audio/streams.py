"""MP3, Ogg and FLAC files separated into the streams that were joined in them, with the exact length of every MP3.

Decoders estimate the length of an MP3 from its first frame and stop there, or at the length that the first of several
joined files gives. Ogg files may be chains of streams, of which libsndfile reads the first.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO, overload

from urbansound_hf.audio.containers import Recording, TruncatedError, joined

FLAC_START = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # the marker and the head of the first block
OGG_BEGINS = 2  # flag of the first page of a stream
BITRATES = {  # kbit/s by layer, of MPEG 1 and of MPEG 2 and 2.5
    (1, True): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (2, True): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, True): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, False): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, False): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (3, False): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz by version bits
WHOLE_BYTES = 2**26  # a larger file is read in pieces
PIECE_BYTES = 2**22


class Content:
    """A large file as if it were bytes: `len`, slices and `find`, read in pieces."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._first, self._piece = file, size, 0, b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            return self[key : key + 1][0]
        start, stop, _ = key.indices(self._size)
        if not self._first <= start <= stop <= self._first + len(self._piece):
            self._first = start
            self._file.seek(start)
            self._piece = self._file.read(max(PIECE_BYTES, stop - start))
        return self._piece[start - self._first : stop - self._first]

    def find(self, text: bytes, start: int) -> int:
        for first in range(start, self._size, PIECE_BYTES):
            place = self[first : first + PIECE_BYTES + len(text) - 1].find(text)
            if place >= 0:
                return first + place
        return -1


def contents(file: BinaryIO) -> bytes | Content:
    """The bytes of a file; of a large one, an object that reads them in pieces."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return file.read() if size <= WHOLE_BYTES else Content(file, size)


@dataclass(frozen=True)
class Frame:
    """What the header of an MPEG audio frame says; two frames of one stream agree in all but the length."""

    version: int
    layer: int
    rate: int
    length: int  # bytes
    samples: int


@dataclass
class Mp3Stream:
    """Frames that belong together: those of one file of several that were joined."""

    info: bytes  # the frame that describes them, or nothing
    promised: int | None  # number of frames by that description
    samples: int  # of a frame
    spans: list[tuple[int, int]] = field(default_factory=list)  # first and last byte of frames without a gap
    frames: int = 0

    @property
    def least(self) -> int:
        """Samples that decoding yields at least; the encoder's padding, less than four frames, may be left out."""
        return max(1, (self.frames - 4) * self.samples)

    def add(self, start: int, end: int) -> None:
        """Adds a frame that holds sound."""
        self.frames += 1
        if self.spans and self.spans[-1][1] == start:
            self.spans[-1] = (self.spans[-1][0], end)
        else:
            self.spans.append((start, end))


def split_mp3(file: BinaryIO, notes: list[str]) -> list[Recording]:
    """The sounds of an MP3 or MP2 file, each with its true number of frames; none if most of it is something else.

    Raises:
        TruncatedError: a stream has fewer frames than its description gives.
    """
    content = contents(file)
    streams, skipped = _mp3_streams(content)
    if skipped > len(content) // 2:
        return []
    if skipped:
        notes.append(f"{skipped:,} bytes in it are no MP3 frames and are not read")
    for stream in streams:
        if stream.promised and stream.frames < 0.95 * stream.promised:
            raise TruncatedError(f"{stream.frames:,} of {stream.promised:,} MP3 frames are there")
    if len(streams) == 1 and _described(streams[0]) and len(streams[0].spans) == 1:
        return [Recording(file, least=streams[0].least)]
    return [Recording(joined(file, _description(s, content, notes), *s.spans), least=s.least) for s in streams]


def split_ogg(file: BinaryIO, notes: list[str]) -> list[Recording]:
    """The links of an Ogg chain; streams that begin together (sound and pictures) are one link.

    Raises:
        TruncatedError: the file ends within a page.
    """
    content = contents(file)
    starts, position, before_begins = [0], 0, True
    while 0 <= position < len(content):
        if content[position : position + 4] != b"OggS":  # damaged, or other data behind the stream
            position = content.find(b"OggS", position)
            continue
        head = content[position : position + 27]
        table = content[position + 27 : position + 27 + (head[26] if len(head) == 27 else 1)]
        begins = len(head) == 27 and bool(head[5] & OGG_BEGINS)
        if begins and not before_begins:
            starts.append(position)
        before_begins, position = begins, position + 27 + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[26] or position > len(content):
            raise TruncatedError(f"{len(content):,} bytes are there, its last page needs more")
    return _parts(file, starts, len(content))


def split_flac(file: BinaryIO, notes: list[str]) -> list[Recording]:
    """The sounds of FLAC files joined end to end."""
    content, starts = contents(file), [0]
    while found := [place for start in FLAC_START if (place := content.find(start, starts[-1] + 8)) > 0]:
        starts.append(min(found))
    return _parts(file, starts, len(content))


def _parts(file: BinaryIO, starts: list[int], size: int) -> list[Recording]:
    if len(starts) == 1:
        return [Recording(file)]
    return [Recording(joined(file, span)) for span in zip(starts, [*starts[1:], size], strict=True)]


def _mp3_streams(content: bytes | Content) -> tuple[list[Mp3Stream], int]:
    """The streams of a file, and how many bytes of it belong to nothing known."""
    streams: list[Mp3Stream] = []
    position, skipped, kind = 0, 0, None
    while position < len(content) - 4:
        head = content[position : position + 4]
        frame = _frame(head[1], head[2]) if head[0] == 0xFF else None
        mono = head[3] >> 6 == 3
        new = frame is not None and (frame.version, frame.layer, frame.rate, mono) != kind
        if frame is None or (new and not _continues(content, position, frame)):
            size = _tag_bytes(content, position)
            step = size or max(1, content.find(b"\xff", position + 1) - position)
            unknown = content[position : position + step].strip(b"\0") if not size else b""
            skipped, position = skipped + len(unknown), position + step
            continue
        whole = content[position : position + frame.length]
        promised = _promised_frames(whole, frame, mono)
        if new or promised is not None:
            kind = (frame.version, frame.layer, frame.rate, mono)
            info = whole if promised is not None else b""
            streams.append(Mp3Stream(info, promised, frame.samples))
        if promised is None and len(whole) == frame.length:
            streams[-1].add(position, position + frame.length)
        position += frame.length
    return [stream for stream in streams if stream.frames], skipped


@cache
def _frame(second: int, third: int) -> Frame | None:
    """The frame whose header has these bytes behind 0xFF; None if they are no header (or one of free format)."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bitrate, rate = third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    bits, hertz, padding = 1000 * BITRATES[layer, version == 3][bitrate - 1], RATES[version][rate], third >> 1 & 1
    if layer == 1:
        return Frame(version, layer, hertz, (12 * bits // hertz + padding) * 4, 384)
    samples = 576 if layer == 3 and version != 3 else 1152
    return Frame(version, layer, hertz, samples // 8 * bits // hertz + padding, samples)


def _continues(content: bytes | Content, position: int, frame: Frame) -> bool:
    """Whether a frame is followed by another of its kind, or by the end of the file or a tag."""
    after = position + frame.length
    if after > len(content) - 4 or _tag_bytes(content, after):
        return True
    following = _frame(content[after + 1], content[after + 2]) if content[after] == 0xFF else None
    return following is not None and (following.layer, following.rate) == (frame.layer, frame.rate)


def _tag_bytes(content: bytes | Content, position: int) -> int:
    """The size of an ID3 or APE tag that begins here; 0 if none does."""
    head = content[position : position + 32]
    if head[:3] == b"ID3" and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return 10 + size + 10 * (head[5] >> 4 & 1)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)  # items follow a header only
    return 0


def _info_offset(header: bytes, version: int) -> int:
    """Where the description begins in a frame: behind the header, its checksum and the side information."""
    mono, checksum = header[3] >> 6 == 3, not header[1] & 1
    return 4 + 2 * checksum + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


def _promised_frames(whole: bytes, frame: Frame, mono: bool) -> int | None:
    """The number of frames that a describing frame gives (0: it gives none); None of a frame that holds sound."""
    if frame.layer != 3 or len(whole) < 4:
        return None
    for offset in {_info_offset(whole, frame.version), _info_offset(whole, frame.version) - 2 * (not whole[1] & 1)}:
        if whole[offset : offset + 4] in (b"Xing", b"Info"):
            counted = whole[offset + 7 : offset + 8] and whole[offset + 7] & 1
            return int.from_bytes(whole[offset + 8 : offset + 12], "big") if counted else 0
    return int.from_bytes(whole[50:54], "big") if whole[36:40] == b"VBRI" else None


def _described(stream: Mp3Stream) -> bool:
    """Whether the description of a stream gives its number of frames; some programs count the description as one."""
    return bool(stream.promised) and abs(stream.frames - int(stream.promised or 0)) <= 1


def _description(stream: Mp3Stream, content: bytes | Content, notes: list[str]) -> bytes:
    """A frame that gives the stream's number of frames: its own if that is right, else a new one."""
    first = content[stream.spans[0][0] : stream.spans[0][0] + 4]
    frame = _frame(first[1], first[2])
    if _described(stream) or frame is None or frame.layer != 3:
        return stream.info
    if stream.promised:
        notes.append(f"its description promises {stream.promised:,} MP3 frames, {stream.frames:,} are there and read")
    header = bytes((0xFF, first[1] | 1, first[2] & 0x0C | 0x90, first[3]))  # without checksum
    length = _frame(header[1], header[2]).length  # type: ignore[union-attr]  # a bit rate in which the description fits
    info = bytes(_info_offset(header, frame.version) - 4) + b"Xing" + struct.pack(">II", 1, stream.frames)
    return header + info.ljust(length - 4, b"\0")
