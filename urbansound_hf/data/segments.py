"""Segments of recordings as labelled sounds: label tracks of Audacity, selection tables of Raven, unlabelled stretches.

A label file lies beside its recording or in a folder of its own, and begins with its name: for `dawn.wav` it is
`dawn.txt`, `dawn.selections.txt`, `dawn.Table.1.selections.txt` or `dawn.BirdNET.selection.table.txt`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from urbansound_hf.audio.files import AudioFiles, is_hidden
from urbansound_hf.audio.io import file_seconds
from urbansound_hf.data.builder import ROUNDING_SECONDS, Row
from urbansound_hf.data.columns import LabelMap, clean_text, find_columns, read_csv, seconds
from urbansound_hf.errors import UserError, joined
from urbansound_hf.text import alternatives, counted, first_ten

Listed = tuple[list[Row], list[str], list[str]]
"""Rows, the place of each for errors, and notes."""
Mark = tuple[str, str, str, str, str]
"""A line of a label file: its place, start and end in seconds as text, label, and the sound that it names or ""."""
BACKGROUND_SECONDS = 0.5  # the shortest unlabelled stretch that becomes a clip
NO_CLASSES = "silence", "unknown"  # what infer.py writes into label files where no class is predicted


def read_annotations(
    found: AudioFiles, folder: Path | None, label_column: str | None, label_map: LabelMap
) -> Listed | None:
    """The segments that label files name; None where there are no label files.

    The label files lie beside the recordings (`found`), in `folder`, or are a single one. Stretches of `NO_CLASSES` are
    left out, unless `label_map` has a line for them. Raises UserError for a line that is no segment of its recording,
    and for a `folder` without label files.
    """
    files = [folder] if folder and folder.is_file() else sorted((folder or found.folder).rglob("*.txt"))
    stems: dict[str, list[Path]] = defaultdict(list)
    for sound in found.sounds:
        stems[clean_text(sound.stem)].append(sound)
    marked: list[tuple[Mark, list[Path]]] = []  # with the recordings of the longest name that the file's begins with
    annotated = set[Path]()
    for path in (path for path in files if not is_hidden(path.name)):
        parts = clean_text(path.name).split(".")
        begins = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
        owners = next((stems[name] for name in begins if name in stems), [])
        lines = _marks(path, label_column) if folder or owners else None
        if lines is not None:
            marked += [(mark, owners) for mark in lines]
            annotated.update(owners)
    if not marked:
        if folder:
            fix = "give label tracks of Audacity, or selection tables of Raven, called as their recordings"
            raise UserError("there are no label files", f"--annotations {folder}", fix)
        return None
    rows, places, problems, unclassified = [], [], [], Counter[str]()
    for (where, start, end, label, named), owners in marked:
        if clean_text(label) in {*NO_CLASSES} - {*label_map}:
            unclassified[clean_text(label)] += 1
            continue
        try:
            owners = stems.get(clean_text(Path(named).stem), owners)
            rows.append(_segment(found, owners, (start, end), label, where))
            places.append(where)
        except UserError as error:
            problems.append(error)
    refuse(problems)
    if not rows:
        names = alternatives([f"`{label}`" for label in sorted(unclassified)])
        what = f"all segments are labelled {names}, which is no class"
        raise UserError(what, str(folder or found.folder), "correct their labels")
    left = found.names(sorted(set(found.sounds) - annotated - {Path(row["source"]) for row in rows}))
    notes = [f"{counted(len(left), 'sound')} without a label file, left out: {first_ten(left)}"] if left else []
    notes += [
        f"{counted(count, 'segment')} left out: `{label}` is what infer.py writes where it finds no class; "
        f"a line `{label}: {label}` in a --label_map makes it one"
        for label, count in sorted(unclassified.items())
    ]
    return rows, places, notes


def refuse(problems: Sequence[UserError]) -> None:
    """Raises the first ten problems at once, if there are any."""
    if problems:
        rest = [UserError(f"… and {len(problems) - 10:,} more lines")] if len(problems) > 10 else []
        raise joined([*problems[:10], *rest])


def _marks(path: Path, label_column: str | None) -> list[Mark] | None:
    """The lines of a label file; None if it is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    first = next((line for line in lines if line.strip()), "")
    if "begin time (s)" in first.lower():
        return list(_selections(path, label_column))
    cells = first.split("\t")
    if first and (len(cells) < 2 or not _is_number(cells[0])):
        return None
    # A line that begins with a backslash gives the frequencies of the label above it.
    rows = [(n, [*line.split("\t"), "", ""]) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "\\"]
    return [(f"{path}, line {n}", cells[0], cells[1], cells[2], "") for n, cells in rows]


def _selections(path: Path, label_column: str | None) -> Iterator[Mark]:
    """The selections of a Raven table, each once although it is listed for every view."""
    content = read_csv(path)
    names = find_columns(content.columns, {"label": label_column}, str(path), ("start", "end", "label"))
    own = {name.lower(): name for name in content.columns}
    seen = set()
    for line, record in content.records:
        number = record.get(own.get("selection", ""), str(line))
        if number not in seen:
            seen.add(number)
            sound = record.get(own.get("begin file", ""), "") or record.get(own.get("begin path", ""), "")
            start, end = record[names["start"]], record[names["end"]]
            offset = record.get(own.get("file offset (s)", ""), "")
            if sound and _is_number(offset) and _is_number(start) and _is_number(end):  # a table of several files
                start, end = offset, repr(float(offset) + float(end) - float(start))
            yield f"{path}, line {line}", start, end, record[names["label"]], sound.replace("\\", "/")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _segment(found: AudioFiles, owners: Sequence[Path], bounds: Sequence[str], label: str, where: str) -> Row:
    if len(owners) != 1:
        names = first_ten(found.names(owners)) or "none"
        raise UserError(f"a label file belongs to one recording, found {names}", where, "call it as its recording")
    times = tuple(seconds(text.strip(), role, where) for text, role in zip(bounds, ("start", "end"), strict=True))
    if None in times or not clean_text(label):
        raise UserError("a segment has a start, an end and a label", where, "complete the line, or take it out")
    name = found.names(owners)[0]
    return {"source": str(owners[0]), "path": name, "label": clean_text(label), "group": name,
            "start": times[0], "end": times[1], "segment": times}  # fmt: skip


def segment_mistakes(rows: Sequence[Row], places: Sequence[str], label_map: LabelMap) -> list[UserError]:
    """Errors for segments that end before they start, lie beyond their file, or overlap one of another label.

    Rows without `segment` are passed over; `label_map` merges or drops labels.
    """
    problems: list[UserError] = []
    by_file: dict[str, list[tuple[float, float, Any, str]]] = defaultdict(list)
    for row, where in zip(rows, places, strict=True):
        if "segment" in row and row["source"]:
            label = None if isinstance(row["label"], list) else row["label"]  # segments of several labels may overlap
            by_file[row["source"]].append((*row["segment"], label, where))
    for source, segments in by_file.items():
        length, name = file_seconds(source), Path(source).name
        for start, end, _, where in segments:
            if end <= start:
                what = f"{name}: a segment ends after it starts, found {start:g} to {end:g} s"
                problems.append(UserError(what, where))
            elif length is not None and (start < 0 or end > length + ROUNDING_SECONDS):
                what = f"the segment {start:g} to {end:g} s is not within the {length:.2f} s of its file {name}"
                problems.append(UserError(what, where))
        mapped = [(start, end, label_map.get(label, label), where) for start, end, label, where in segments]
        last: dict[str, tuple[float, str]] = {}  # of each label, the latest end so far and its place
        for start, end, label, where in sorted((each for each in mapped if each[2] is not None), key=lambda e: e[:2]):
            for other, (until, place) in last.items():
                if start < until - ROUNDING_SECONDS and other != label:
                    what = f"{name}: {other} until {until:g} s overlaps {label} from {start:g} s"
                    fix = "a clip has one label: cut one of them, or leave a class out with --label_map"
                    problems.append(UserError(what, f"{place} and {where}", fix))
            last[label] = max(last.get(label, (end, where)), (end, where))
    return problems


def equal_pieces(start: float, end: float, clip_seconds: float) -> list[tuple[float, float]]:
    """Bounds of equal pieces of a stretch, the longest that are no longer than `clip_seconds`; all in seconds."""
    count = max(0, math.ceil((end - start) / clip_seconds))
    return list(pairwise(round(start + number * (end - start) / count, 3) for number in range(count + 1) if count))


def named_segments(rows: Sequence[Row]) -> list[Row]:
    """The rows, each segment with its times in its name."""
    names = ("{}#{}-{}".format(row["path"], *row["segment"]) if "segment" in row else row["path"] for row in rows)
    return [row | {"path": name} for row, name in zip(rows, names, strict=True)]


def background(rows: Sequence[Row], label: str, clip_seconds: float) -> list[Row]:
    """The stretches without a label of the recordings that have segments, cut into clips of at most `clip_seconds`.

    A clip has the group, fold and part of the first segment of its recording. Raises UserError without segments.
    """
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if "segment" in row:
            by_file[row["source"]].append(row)
    if not by_file:
        fix = "give label files, or a CSV with start and end of several segments a file"
        raise UserError("unlabelled stretches exist beside labelled segments, found none", "--background_class", fix)
    clips = []
    for source, segments in by_file.items():
        edge = 0.0
        times = sorted(row["segment"] for row in segments)
        for start, end in [*times, (file_seconds(source) or times[-1][1], math.inf)]:
            for bounds in equal_pieces(edge, start, clip_seconds) if start - edge >= BACKGROUND_SECONDS else ():
                clips.append(segments[0] | {"label": label, "start": bounds[0], "end": bounds[1], "segment": bounds})
            edge = max(edge, end)
    return clips
