"""Chunked sound files (WAV, RF64, W64, AIFF) and AU with the sizes of their headers checked against the file.

libsndfile reads as many bytes as the header says. A header written by a faulty or interrupted program says too many,
too few or none; then this module passes on a corrected copy. Files joined end to end are separated. A file in order is
passed on as it is, without reading its samples.
"""

from __future__ import annotations

import io
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple, cast

HEADER_BYTES = 128  # a size that is wrong by no more is miscounted by a header; the samples are all there
BUFFER_BYTES = 2**20  # read at a time from a corrected or joined file
ENDLESS_BYTES = 0x7FFF0000  # a header written to a pipe promises the whole 2 or 4 GiB of its field
TAIL_BYTES = 2**16  # where the chunks behind samples of unknown size are looked for
W64_SUFFIX = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of the ids of its chunks
ID3_BYTES = 128  # of the tag that some programs append to any file
UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)  # format tags of WAV: integers, floats, A-law, mu-law, extensible
METADATA = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"inst", b"iXML", b"_PMX", b"axml", b"PEAK", b"fact",
            b"JUNK", b"junk", b"acid", b"strc", b"afsp", b"DISP", b"cart", b"NAME", b"AUTH", b"ANNO", b"(c) ", b"COMT",
            b"MARK", b"INST", b"APPL", b"MIDI", b"AESD", b"CHAN", b"FLLR", b"PAD ", b"plst", b"note", b"labl",
            b"COMM", b"FVER")  # fmt: skip

METADATA_ID = re.compile(b"|".join(map(re.escape, METADATA)))
KNOWN = (*METADATA, b"fmt ", b"data", b"SSND")


class TruncatedError(Exception):
    """A file that ends before its samples do; the text gives what is there and what should be."""


class Recording(NamedTuple):
    """One sound of a file.

    Args:
        content: what libsndfile is to read.
        checked: all of it is there; a length that libsndfile computes proves nothing more.
        least: number of samples of each channel that decoding must yield at least.
    """

    content: BinaryIO
    checked: bool = True
    least: int = 1


class Sections(io.RawIOBase):
    """A file made of bytes and of sections of another file, which are read when they are asked for.

    Args:
        file: the other file.
        sections: in order, bytes or `(first, last)` byte of `file`, the last one excluded.
    """

    def __init__(self, file: BinaryIO, sections: Sequence[bytes | tuple[int, int]]) -> None:
        self._file, self._sections, self._position = file, sections, 0
        sizes = [len(each) if isinstance(each, bytes) else each[1] - each[0] for each in sections]
        self._starts = [0, *accumulate(sizes)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._starts, self._position) - 1
        if number >= len(self._sections):
            return 0
        section, within = self._sections[number], self._position - self._starts[number]
        size = min(len(buffer), self._starts[number + 1] - self._position)
        if isinstance(section, bytes):
            content = section[within : within + size]
        else:
            self._file.seek(section[0] + within)
            content = self._file.read(size)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def joined(file: BinaryIO, *sections: bytes | tuple[int, int]) -> BinaryIO:
    """A file made of `Sections`, buffered."""
    return cast(BinaryIO, io.BufferedReader(Sections(file, sections), BUFFER_BYTES))


class Layout(NamedTuple):
    """How the chunks of a kind of file are written."""

    id_bytes: int
    size: str  # struct format
    counts_header: bool  # whether the size includes the id and itself
    alignment: int  # of the chunks, in bytes
    first: int  # offset of the first chunk
    samples: bytes  # id of the chunk with the samples

    @property
    def header(self) -> int:
        return self.id_bytes + struct.calcsize(self.size)


RIFF = Layout(4, "<I", False, 2, 12, b"data")
LAYOUTS = {
    (b"RIFF", b"WAVE"): RIFF,
    (b"RF64", b"WAVE"): RIFF,
    (b"BW64", b"WAVE"): RIFF,
    (b"RIFX", b"WAVE"): RIFF._replace(size=">I"),
    (b"FORM", b"AIFF"): RIFF._replace(size=">I", samples=b"SSND"),
    (b"FORM", b"AIFC"): RIFF._replace(size=">I", samples=b"SSND"),
    (b"riff", b"\x2e\x91\xcf\x11"): Layout(16, "<Q", True, 8, 40, b"data" + W64_SUFFIX),
}


class Chunk(NamedTuple):
    """A chunk of a file: its id, where its content starts, and the size that its header gives, in bytes."""

    id: bytes
    start: int
    size: int


def layout_of(start: bytes) -> Layout | None:
    """The layout of a file that begins with these bytes, at least 12; None if it has no chunks that are known here."""
    return LAYOUTS.get((start[:4], start[8:12])) or LAYOUTS.get((start[:4], start[4:8]))


def split_chunked(file: BinaryIO, layout: Layout, notes: list[str]) -> list[Recording]:
    """The sounds of a chunked file, one unless several were joined.

    Args:
        file: open at any place.
        notes: a list that receives a sentence for each correction.

    Raises:
        TruncatedError: the file ends before its samples do.
    """
    end = file.seek(0, io.SEEK_END)
    recordings: list[Recording] = []
    start: int | None = 0
    while start is not None:
        layout = layout_of(_read(file, start, 12)) or layout
        recording, start = _recording(file, layout, start, end, notes)
        recordings.append(recording)
    return recordings


def split_au(file: BinaryIO, notes: list[str]) -> list[Recording]:
    """The sound of an AU file; its header gives the offset and the size of the samples. Raises TruncatedError."""
    end = file.seek(0, io.SEEK_END)
    start, declared = struct.unpack(">II", _read(file, 4, 8))
    if start > end:
        return [Recording(file, checked=False)]
    size = _true_size(file, None, start, declared, end, lambda: start, notes)
    if size == declared or declared == 0xFFFFFFFF:
        return [Recording(file)]
    return [Recording(joined(file, b".snd" + struct.pack(">II", start, size), (12, start + size)))]


def _recording(file: BinaryIO, layout: Layout, start: int, end: int, notes: list[str]) -> tuple[Recording, int | None]:
    """The sound that begins at `start`, and where the next one begins, if one does."""
    chunks, odd = _chunks_before_samples(file, layout, start, end)
    samples = chunks.pop() if chunks and chunks[-1].id == layout.samples else None
    if samples is None:  # libsndfile says what is wrong
        return Recording(joined(file, (start, end)) if start else file, checked=False), None
    declared = _declared(file, chunks, samples)
    tolerance = partial(_tolerance, file, layout, start, chunks, samples, end)
    size = _true_size(file, layout, samples.start, declared, end, tolerance, notes)
    following = _following(file, layout, samples.start + size, end)
    more = following if following != end else None
    # libsndfile does not know BW64, and takes what follows the samples of W64 for samples.
    ends_there = layout.id_bytes == 4 or end - samples.start - size < layout.alignment
    if size == declared and not start and not odd and not more and ends_there and _read(file, 0, 4) != b"BW64":
        return Recording(file), None
    return Recording(_rebuilt(file, layout, start, chunks, samples._replace(size=size), end)), more


def _chunks_before_samples(file: BinaryIO, layout: Layout, start: int, end: int) -> tuple[list[Chunk], bool]:
    """The chunks up to the samples, these included, and whether one of them lacks the byte that makes its size even."""
    position, unpadded = start + layout.first, False
    chunks: list[Chunk] = []
    while position + layout.header <= end and len(chunks) < 1000:
        chunk = _chunk(file, layout, position)
        chunks.append(chunk)
        if chunk.id == layout.samples:
            break
        position = _after(chunk, layout)
        exact = chunk.start + chunk.size
        if exact < position and _read(file, position, 4) not in KNOWN and _read(file, exact, 4) in KNOWN:
            position, unpadded = exact, True
    return chunks, unpadded


def _chunk(file: BinaryIO, layout: Layout, position: int) -> Chunk:
    header = _read(file, position, layout.header)
    size = struct.unpack(layout.size, header[layout.id_bytes :])[0] - layout.header * layout.counts_header
    return Chunk(header[: layout.id_bytes], position + layout.header, max(0, size))


def _after(chunk: Chunk, layout: Layout) -> int:
    """Where the next chunk begins."""
    return chunk.start + -(-chunk.size // layout.alignment) * layout.alignment


def _is_id(text: bytes) -> bool:
    return len(text) == 4 and text.isascii() and text.decode("ascii").isprintable() and text.strip() != b""


def _declared(file: BinaryIO, chunks: list[Chunk], samples: Chunk) -> int:
    """The size of the samples by the header; of RF64, the 64-bit one."""
    large = next((chunk for chunk in chunks if chunk.id == b"ds64" and chunk.size >= 24), None)
    if large and samples.size == 0xFFFFFFFF:
        return int.from_bytes(_read(file, large.start + 8, 8), "little")
    return samples.size


def _tolerance(file: BinaryIO, layout: Layout, start: int, chunks: list[Chunk], samples: Chunk, end: int) -> int:
    """How many bytes may be missing in a whole file: those of its header, which some programs count as samples.

    In a compressed sound they may be many samples; there the size of the whole file must be right.
    """
    format_ = next((chunk for chunk in chunks if chunk.id[:4] == b"fmt " and chunk.size >= 2), None)
    tag = int.from_bytes(_read(file, format_.start, 2), "big" if layout.size == ">I" else "little") if format_ else 1
    whole = struct.unpack(layout.size, _read(file, start + layout.id_bytes, layout.header - layout.id_bytes))[0]
    complete = abs(start + whole + layout.header * (not layout.counts_header) - end) <= 1
    return samples.start - start if tag in UNCOMPRESSED or complete else 0


def _true_size(
    file: BinaryIO,
    layout: Layout | None,
    start: int,
    declared: int,
    end: int,
    tolerance: Callable[[], int],
    notes: list[str],
) -> int:
    """The size of the samples from `start` on: the declared one if the file agrees, else what the file shows."""
    after = start + declared
    in_order = after <= end and _following(file, layout, after, end) is not None
    if in_order and not declared:
        return 0
    unknown = not declared or (declared >= ENDLESS_BYTES and after > end)
    earliest, latest = (end - TAIL_BYTES, end) if unknown else (min(after, end) - HEADER_BYTES, after + HEADER_BYTES)
    size = _metadata_start(file, layout, max(start, earliest), min(latest, end), end) - start
    if in_order and size >= declared:
        return declared
    if unknown:
        if not declared:
            notes.append(f"its header gives no size; all {size:,} bytes behind it are read as samples")
        return size
    if -HEADER_BYTES <= declared - size <= min(HEADER_BYTES, tolerance()):
        notes.append(f"its header promises {declared:,} bytes of samples, {size:,} are there; all of them are read")
        return size
    if declared > size:
        raise TruncatedError(f"{size:,} of {declared:,} bytes are there")
    notes.append(f"{end - start - declared:,} bytes behind its {declared:,} bytes of samples are not read")
    return declared


def _following(file: BinaryIO, layout: Layout | None, position: int, end: int) -> int | None:
    """Where the chunks from `position` on end: the end of the file, or where another file was joined on.

    Returns:
        None if what is there is no sequence of chunks.
    """
    even = position + position % 2
    if end - even <= 1 or (0 <= end - even - ID3_BYTES <= 1 and _read(file, end - ID3_BYTES, 3) == b"TAG"):
        return end  # the byte that makes a size even may be there or not
    if layout is None:
        return None
    for aligned in dict.fromkeys((even, position)):
        found: int | None = aligned
        while found is not None and end - found >= layout.header:
            if layout_of(_read(file, found, 12)):
                return found
            found = _next_chunk(file, layout, found, end)
        if found is not None and found > aligned:
            return end
    return None


def _next_chunk(file: BinaryIO, layout: Layout, position: int, end: int) -> int | None:
    chunk = _chunk(file, layout, position)
    plausible = chunk.id[4:] == W64_SUFFIX if layout.id_bytes == 16 else _is_id(chunk.id)
    after = _after(chunk, layout)
    if chunk.id[:4] in METADATA and after > end:  # metadata that was cut off
        return end
    return after if plausible and after <= end + layout.alignment - 1 else None


def _metadata_start(file: BinaryIO, layout: Layout | None, earliest: int, latest: int, end: int) -> int:
    """Where the chunks behind the samples begin, from `earliest` to `latest`; the end of the file if none does."""
    if layout is None:
        return end
    tail = _read(file, earliest, latest - earliest + 4)
    for match in METADATA_ID.finditer(tail):
        position = earliest + match.start()
        chunk = _chunk(file, layout, position) if position + layout.header <= end else None
        if chunk and _after(chunk, layout) <= end + 1 and _following(file, layout, position, end) is not None:
            return position
    return end


def _rebuilt(file: BinaryIO, layout: Layout, start: int, chunks: list[Chunk], samples: Chunk, end: int) -> BinaryIO:
    """A file with the chunks that decoding needs and right sizes: AIFF as it was, every kind of WAV as RIFF."""
    kind = _read(file, start, 12)
    kept = [chunk for chunk in chunks if chunk.id[:4] in (b"fmt ", b"fact", b"COMM", b"FVER")]
    size = layout.size if layout.size != "<Q" else "<I"
    sections: list[bytes | tuple[int, int]] = []
    total = 4
    for chunk in (*kept, samples):
        length = max(0, min(chunk.start + chunk.size, end) - chunk.start)
        header = chunk.id[:4] + struct.pack(size, min(length, 0xFFFFFFFF))
        sections += [header, (chunk.start, chunk.start + length), b"\0" * (length % 2)]
        total += len(header) + length + length % 2
    form = (kind[:4] if kind[:4] in (b"RIFX", b"FORM") else b"RIFF", kind[8:12] if layout.id_bytes == 4 else b"WAVE")
    return joined(file, form[0] + struct.pack(size, min(total, 0xFFFFFFFF)) + form[1], *sections)


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    if position + size > TAIL_BYTES:  # a header may give any number
        end = file.seek(0, io.SEEK_END)
        position, size = min(position, end), min(size, max(0, end - position))
    file.seek(position)
    return file.read(size)
