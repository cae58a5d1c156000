"""Sound files with the sizes of their headers checked (WAV, RF64, W64, AIFF), and those that were joined separated.

libsndfile reads as many bytes as a header says, and the first of several joined files. A header written by a faulty or
interrupted program says too many, too few or none; then this module passes on a corrected copy. A file in order is
passed on as it is, without reading its samples.
"""

import io
import mmap
import re
import struct
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, cast

HEADER_BYTES = 128  # a size that is wrong by no more is miscounted by a header; the samples are all there
ENDLESS_BYTES = 0x7FFF0000  # a header written to a pipe promises the whole 2 or 4 GiB of its field
TAIL_BYTES = 2**16  # where the chunks behind samples of unknown size are looked for
PIECE_BYTES = 2**22
ID3_BYTES = 128  # of the tag that some programs append to any file
W64_SUFFIX = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of the ids of its chunks
METADATA = re.compile(
    rb"LIST|[iI][dD]3 |bext|cue |smpl|inst|iXML|_PMX|axml|PEAK|fact|JUNK|junk|acid|strc|afsp|DISP|cart|NAME|AUTH|ANNO|"
    rb"\(c\) |COMT|MARK|INST|APPL|MIDI|AESD|CHAN|FLLR|PAD |plst|note|labl|COMM|FVER"
)
FLAC_START = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # the marker and the head of the first block
OGG_BEGINS = 2  # flag of the first page of a stream


class TruncatedError(Exception):
    """A file that ends before its samples do; the text gives what is there and what should be."""


class Recording(NamedTuple):
    """One sound of a file."""

    content: BinaryIO  # what libsndfile is to read
    checked: bool = True  # all of it is there; a length that libsndfile computes proves nothing more


class Mapped(mmap.mmap):
    """A mapped file that may be sought beyond its end, as libsndfile does; then it is at its end."""

    def seek(self, offset: int, whence: Any = io.SEEK_SET) -> None:  # type: ignore[override]
        try:
            super().seek(offset, whence)
        except ValueError:
            super().seek(0, io.SEEK_END)


class Layout(NamedTuple):
    id_bytes: int  # of each chunk
    size: str  # struct format
    counts_header: bool  # whether the size includes the id and itself
    alignment: int  # of the chunks, in bytes
    first: int  # offset of the first chunk
    samples: bytes  # id of the chunk with the samples


LITTLE = Layout(4, "<I", False, 2, 12, b"data")
BIG = LITTLE._replace(size=">I")
LAYOUTS = {(name, b"WAVE"): LITTLE for name in (b"RIFF", b"RF64", b"BW64")} | {(b"RIFX", b"WAVE"): BIG}
LAYOUTS |= {(b"FORM", kind): BIG._replace(samples=b"SSND") for kind in (b"AIFF", b"AIFC")}
LAYOUTS[b"riff", b"\x2e\x91\xcf\x11"] = Layout(16, "<Q", True, 8, 40, b"data" + W64_SUFFIX)


class Chunk(NamedTuple):
    id: bytes
    start: int  # of its content
    size: int  # by its header, in bytes
    after: int  # where the next chunk begins


def split(file: BinaryIO, notes: list[str]) -> list[Recording]:
    """The sounds of a file, one unless several were joined end to end; `notes` gets a sentence for each correction.

    Raises TruncatedError if the file ends before its samples do.
    """
    start, end = _read(file, 0, 12), file.seek(0, io.SEEK_END)
    if _layout_at(file, 0):
        recordings, position = list[Recording](), 0
        while position < end:
            recording, position = ChunkedFile(file, position, end, notes).recording()
            recordings.append(recording)
        return recordings
    starts = _ogg_starts(file, end) if start[:4] == b"OggS" else [0]
    while start[:4] == b"fLaC" and (place := _find(file, FLAC_START, starts[-1] + 8)):
        starts.append(place)
    if len(starts) == 1:
        return [Recording(file, checked=start[:4] in (b"OggS", b"fLaC"))]
    return [Recording(io.BytesIO(_read(file, first, last - first))) for first, last in pairwise([*starts, end])]


class ChunkedFile:
    """A sound in chunks that begins at `start` of a file; others may be joined on behind it."""

    def __init__(self, file: BinaryIO, start: int, end: int, notes: list[str]) -> None:
        self.file, self.start, self.end, self.notes = file, start, end, notes
        self.layout = cast(Layout, _layout_at(file, start))
        self.header = self.layout.id_bytes + struct.calcsize(self.layout.size)

    def recording(self) -> tuple[Recording, int]:
        """The sound, and where the next one begins."""
        file, start, end, form = self.file, self.start, self.end, self.layout.size
        chunks, position = list[Chunk](), start + self.layout.first
        while position + self.header <= end and len(chunks) < 1000:
            chunks.append(self.chunk(position))
            if chunks[-1].id == self.layout.samples:
                break
            position = chunks[-1].after
        if not chunks or chunks[-1].id != self.layout.samples:  # libsndfile says what is wrong
            copy = io.BytesIO(_read(file, start, end - start)) if start else file
            return Recording(copy, checked=False), end
        samples, declared = chunks[-1], chunks[-1].size
        field = samples.start - struct.calcsize(form)
        large = next((chunk for chunk in chunks if chunk.id == b"ds64" and chunk.size >= 24), None)
        if large and declared == 0xFFFFFFFF:  # of RF64, the size has 64 bits
            field, form = large.start + 8, "<Q"
            declared = int.from_bytes(_read(file, field, 8), "little")
        size = self.true_size(samples.start, declared)
        last = samples.start + size
        following = self.following(last)
        following = end if following is None else following
        # libsndfile does not know BW64, and takes what follows the samples of W64 for samples.
        unknown = _read(file, start, 4) == b"BW64" or (self.layout.id_bytes == 16 and end - last >= 8)
        if size == declared and not start and following == end and not unknown:
            return Recording(file), end
        content = _copy(file, start, last)
        struct.pack_into(form, content, field - start, size + self.header * self.layout.counts_header)
        if content[:4] == b"BW64":
            content[:4] = b"RF64"
        return Recording(io.BytesIO(content) if isinstance(content, bytearray) else cast(BinaryIO, content)), following

    def true_size(self, start: int, declared: int) -> int:
        """The size of the samples from `start` on: the declared one if the file agrees, else what the file shows."""
        after, end = start + declared, self.end
        in_order = after <= end and self.following(after) is not None
        if in_order and not declared:
            return 0
        unknown = not declared or (declared >= ENDLESS_BYTES and after > end)
        around = (end - TAIL_BYTES, end) if unknown else (min(after, end) - HEADER_BYTES, after + HEADER_BYTES)
        size = self.metadata_start(max(start, around[0]), min(around[1], end)) - start
        if in_order and size >= declared:
            return declared
        if unknown:
            if not declared:
                self.notes.append(f"its header gives no size; all {size:,} bytes behind it are read as samples")
            return size
        if abs(declared - size) <= HEADER_BYTES:
            promised = f"its header promises {declared:,} bytes of samples"
            self.notes.append(f"{promised}, {size:,} are there; all of them are read")
            return size
        if declared > size:
            raise TruncatedError(f"{size:,} of {declared:,} bytes are there")
        self.notes.append(f"{end - start - declared:,} bytes behind its {declared:,} bytes of samples are not read")
        return declared

    def following(self, position: int) -> int | None:
        """Where the chunks from `position` on end: the end of the file, or a joined file; None if these are none."""
        file, end, even = self.file, self.end, position + position % 2
        if end - even <= 1 or (0 <= end - even - ID3_BYTES <= 1 and _read(file, end - ID3_BYTES, 3) == b"TAG"):
            return end  # the byte that makes a size even may be there or not
        for aligned in dict.fromkeys((even, position)):
            place = aligned
            while end - place >= self.header and not _layout_at(file, place):
                chunk = self.chunk(place)
                if not METADATA.match(chunk.id):
                    break
                place = min(chunk.after, end)
            if _layout_at(file, place):
                return place
            if place > aligned and end - place < self.header:
                return end
        return None

    def metadata_start(self, earliest: int, latest: int) -> int:
        """Where the chunks behind the samples begin, from `earliest` to `latest`; else the end of the file."""
        for match in METADATA.finditer(_read(self.file, earliest, latest - earliest + 4)):
            position = earliest + match.start()
            complete = position + self.header <= self.end and self.chunk(position).after <= self.end + 1
            if complete and self.following(position) is not None:
                return position
        return self.end

    def chunk(self, position: int) -> Chunk:
        header, layout, start = _read(self.file, position, self.header), self.layout, position + self.header
        size = max(0, struct.unpack(layout.size, header[layout.id_bytes :])[0] - self.header * layout.counts_header)
        return Chunk(header[: layout.id_bytes], start, size, start + -(-size // layout.alignment) * layout.alignment)


def _layout_at(file: BinaryIO, position: int) -> Layout | None:
    """The layout of a file that begins there; None if it has no chunks that are known here."""
    start = _read(file, position, 12)
    return LAYOUTS.get((start[:4], start[8:12])) or LAYOUTS.get((start[:4], start[4:8]))


def _ogg_starts(file: BinaryIO, end: int) -> list[int]:
    """Where the links of an Ogg chain begin; streams that begin together (sound and pictures) are one link."""
    starts, position, begun = [0], 0, True
    while position < end:
        page = _read(file, position, 27 + 255)
        if page[:4] != b"OggS":  # damaged, or other data behind the stream
            position = _find(file, re.compile(b"OggS"), position) or end
            continue
        table = page[27 : 27 + page[26]] if len(page) >= 27 else b""
        begins = len(page) >= 27 and bool(page[5] & OGG_BEGINS)
        if begins and not begun:
            starts.append(position)
        begun, position = begins, position + 27 + len(table) + sum(table)
        if len(page) < 27 or len(table) < page[26] or position > end:
            raise TruncatedError(f"{end:,} bytes are there, its last page needs more")
    return starts


def _find(file: BinaryIO, pattern: re.Pattern[bytes], position: int) -> int | None:
    """The next place of a pattern of at most eight bytes."""
    while len(piece := _read(file, position, PIECE_BYTES)) > 7:
        if match := pattern.search(piece):
            return position + match.start()
        position += len(piece) - 7
    return None


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    if position + size > TAIL_BYTES:  # a header may give any number
        end = file.seek(0, io.SEEK_END)
        position, size = min(position, end), min(size, max(0, end - position))
    file.seek(position)
    return file.read(size)


def _copy(file: BinaryIO, first: int, last: int) -> bytearray | mmap.mmap:
    """The bytes from `first` to `last`, to be changed; those of a file are mapped, so that they take no memory."""
    if not first:
        try:
            return Mapped(file.fileno(), last, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # no file of the system, or an empty one
            pass
    return bytearray(_read(file, first, last - first))
