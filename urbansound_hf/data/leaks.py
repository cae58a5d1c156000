"""The leak report: recordings, moments in time and identical or nearly identical audio that test and training share.

It is computed before training, since scores on clips that training has nearly seen say little about new sounds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf.data.columns import find_columns, fold_number, read_csv, seconds
from urbansound_hf.data.fingerprints import Fingerprints, audio_leaks
from urbansound_hf.data.splits import Split, random
from urbansound_hf.data.urbansound8k import RECORDINGS_IN_TWO_FOLDS
from urbansound_hf.errors import CommandParser, UserError, joined
from urbansound_hf.text import counted, first_ten, listed

KNOWN = frozenset(str(recording) for recording in RECORDINGS_IN_TWO_FOLDS)
TOLERATED_DUPLICATES = 0.01  # of UrbanSound8K's test clips, see `check`; they move a score by no more than that


def metadata_leaks(columns: Mapping[str, Any], train_rows: np.ndarray, test_rows: np.ndarray) -> dict[str, Any]:
    """Counts test clips that share a recording with training, and those that overlap a training clip in time.

    `columns`, of every row, as far as they are known, are `group`, the recording ("" or None: not known), `start` and
    `end`, seconds within it (NaN: not known), and `label`, to count what clips of the same class share. Returns counts
    of test clips, and the recordings concerned; None where recordings or times are not known.
    """
    train, test = np.asarray(train_rows, np.int64), np.asarray(test_rows, np.int64)
    found: dict[str, Any] = {"test_clips": len(test), "shared_recording_clips": None, "time_overlap_clips": None}
    if columns.get("group") is None:
        return found
    names = ["" if group is None else str(group) for group in columns["group"]]
    recordings, codes = np.unique(names, return_inverse=True)
    shared = np.isin(codes[test], codes[train]) & (recordings[codes[test]] != "")
    found["shared_recording_clips"] = int(shared.sum()) if any(recordings) else None
    found["unknown_recording_clips"] = int((recordings[codes[test]] == "").sum())
    found["shared_recordings"] = recordings[np.unique(codes[test[shared]])].tolist()
    times = [np.asarray(columns[name], float) for name in ("start", "end") if columns.get(name) is not None]
    if len(times) == 2 and any(recordings) and np.isfinite(times[0]).any():
        found["time_overlap_clips"] = int((shared & _overlapping(codes, times[0], times[1], train, test)).sum())
    if columns.get("label") is not None:
        classes = np.unique(np.asarray(columns["label"]), return_inverse=True)[1]
        of_class = [group and f"{group} {label}" for group, label in zip(recordings[codes], classes, strict=True)]
        same = metadata_leaks({**columns, "group": of_class, "label": None}, train, test)
        found["shared_same_class_clips"] = same["shared_recording_clips"]
        found["time_overlap_same_class_clips"] = same["time_overlap_clips"]
        found["same_class_recordings"] = sorted({name.rpartition(" ")[0] for name in same["shared_recordings"]})
    return found


def _overlapping(
    codes: np.ndarray, starts: np.ndarray, ends: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Whether each test clip has a moment in common with a training clip of its recording, `(test,)` bool."""
    lasts = np.isfinite(starts) & np.isfinite(ends) & (ends > starts)
    if not lasts.any():
        return np.zeros(len(test), bool)
    first, last = starts[lasts].min(), ends[lasts].max()
    shift = codes * (last - first + 1) - first  # all recordings on one line, a second apart
    begin, end = starts + shift, ends + shift
    train = train[lasts[train]]
    train = train[np.argsort(begin[train])]
    latest = np.maximum.accumulate(np.concatenate([[-np.inf], end[train]]))  # end, of those that began so far
    return lasts[test] & (latest[np.searchsorted(begin[train], end[test])] > begin[test])


def across_folds(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Every fold of a table tested against all the others: the counts of `metadata_leaks` over all folds.

    `columns` are `group`, `fold` and `label`, and `start` and `end` in seconds where they are known.
    `shared_recordings` have their clips, and labels by fold; UrbanSound8K's folds do not explain `leaking_recordings`.
    """
    groups, folds = np.array([str(group or "") for group in columns["group"]]), np.asarray(columns["fold"])
    labels = np.asarray(columns["label"])
    sides = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    parts = [metadata_leaks(columns, train, test) for train, test in sides]
    names = [name for name, count in parts[0].items() if name.endswith("_clips") and name != "test_clips"]
    counts = {name: None if parts[0][name] is None else sum(part[name] for part in parts) for name in names}
    shared = sorted({recording for part in parts for recording in part["shared_recordings"]})
    details = []
    for recording in shared:
        mine = groups == recording
        by_fold = {int(fold): np.unique(labels[mine & (folds == fold)]).tolist() for fold in np.unique(folds[mine])}
        details.append({"recording": recording, "clips": int(mine.sum()), "labels_by_fold": by_fold})
    return {
        "clips": len(folds),
        "recordings": len(set(groups) - {""}),
        "clips_per_fold": {int(fold): int((folds == fold).sum()) for fold in np.unique(folds)},
        **counts,
        "shared_recordings": details,
        "leaking_recordings": sorted({recording for part in parts for recording in _unexplained(part, KNOWN)}),
    }


def _unexplained(found: Mapping[str, Any], known: frozenset[str]) -> set[str]:
    """Shared recordings but the known ones, and those too where they do not have another class on either side."""
    return set(found.get("shared_recordings", [])) - known | set(found.get("same_class_recordings", []))


def leak_report(split: Split, columns: Mapping[str, Any], fingerprints: Fingerprints | None = None) -> dict[str, Any]:
    """The leak report of one run, as it stands in metrics.json.

    Args:
        split: row numbers of the three parts.
        columns: of every row, as far as they are known: `group`, `label`, `start` and `end` in seconds.
        fingerprints: from `audio_fingerprints`.

    Returns:
        Test against training; in counts also `validation`, validation against training, and `validation_test`, test
        against validation. What could not be looked for is None.

    Examples:
        >>> split = ush.splits.Split("mine", train=np.array([0, 1, 2]), validation=np.array([3]), test=np.array([4, 5]))
        >>> report = ush.leak_report(split, {"group": ["a", "a", "b", "c", "b", "d"]})
        >>> report["shared_recordings"], report["shared_recording_clips"], report["test_clips"]
        (['b'], 1, 2)
    """
    found = _against(split.train, split.test, columns, fingerprints)
    aside = {"validation": (split.train, split.validation), "validation_test": (split.validation, split.test)}
    for name, sides in aside.items():
        shared = _against(*sides, columns, fingerprints)
        counts = {key: count for key, count in shared.items() if not isinstance(count, list)}
        found[name] = {"clips": counts.pop("test_clips"), **counts}
    return {"train_clips": len(split.train)} | found


def _against(
    train: np.ndarray, test: np.ndarray, columns: Mapping[str, Any], fingerprints: Fingerprints | None
) -> dict[str, Any]:
    unknown = {"exact_duplicates": None, "near_duplicates": None}
    of_audio = unknown if fingerprints is None else audio_leaks(fingerprints, train, test)
    return metadata_leaks(columns, train, test) | of_audio


def check_leaks(report: Mapping[str, Any], split_kind: str, known: frozenset[str] = frozenset()) -> None:
    """Raises UserError for an official split (`split_kind`, the others claim less) that shares recordings or clips.

    The `known` recordings may be shared, and overlap in time, as long as they have another class on either side.
    An identical clip under another recording id stops the run too; with UrbanSound8K (`known` given) only where more
    than 1 % of the test clips have one: two uploads of one sound may have met in its folds unnoticed, the published
    scores contain them then. Near duplicates are only reported: two shots of one gun, two microphones are alike.
    """
    if split_kind != "official":
        return
    where = f"{report['test_clips']} test clips against {report['train_clips']} training clips"
    fix = "give all clips of a recording one fold in the metadata, or use --split grouped"
    problems = []
    if leaking := sorted(_unexplained(report, known)):
        besides = " (but for the known five, there under another class)" if known else ""
        found = f"{counted(len(leaking), 'recording')} in training and test: {first_ten(leaking)}"
        rule = f"official folds keep the clips of a recording together{besides}, found {found}"
        if overlaps := report["time_overlap_clips"]:
            rule += f"; {counted(overlaps, 'test clip')} overlap training clips in time"
        problems.append(UserError(rule, where, fix))
    if (report["exact_duplicates"] or 0) > (TOLERATED_DUPLICATES * report["test_clips"] if known else 0):
        pairs = first_ten([" = ".join(pair) for pair in report["exact_duplicate_pairs"]])
        found = f"{counted(report['exact_duplicates'], 'test clip')} with the samples of a training clip: {pairs}"
        rule = f"official folds hold different clips, found {found}"
        problems.append(UserError(rule, where, f"remove them, or {fix}"))
    if problems:
        raise joined(problems)


def describe_leaks(report: Mapping[str, Any]) -> str:
    """A leak report as a few lines of text.

    Examples:
        >>> sounds = ush.load_sounds("sounds")
        >>> split = ush.splits.official(sounds.dataset["fold"], test_fold=10)
        >>> print(ush.describe_leaks(ush.leak_report(split, {"group": sounds.dataset["group"]})).splitlines()[0])
        Leaks: 10 test clips against 80 training clips
    """
    total, validation = report["test_clips"], report["validation"]
    shared, overlaps = (_share(report[f"{name}_clips"], total) for name in ("shared_recording", "time_overlap"))
    if recordings := report.get("shared_recordings"):
        apart = "" if report.get("shared_same_class_clips", 1) else ", always under another class there"
        own = " of UrbanSound8K's own five" if set(recordings) <= KNOWN else ""
        shared += f"{apart}; {counted(len(recordings), 'recording')}{own}: {first_ten(recordings)}"
    if unknown := report.get("unknown_recording_clips"):
        shared += f"; the recording of {counted(unknown, 'test clip')} is not known"
    if report["time_overlap_clips"] and "time_overlap_same_class_clips" in report:
        overlaps += f", of the same class: {_share(report['time_overlap_same_class_clips'], total)}"
    facts = {"from a recording also in training": shared, "overlapping a training clip in time": overlaps}
    for kind, name in (("exact", "identical"), ("near", "nearly identical")):
        pairs = [" ~ ".join(pair) for pair in report.get(f"{kind}_duplicate_pairs", [])]
        share = _share(report[f"{kind}_duplicates"], total)
        facts[f"{name} to a training clip"] = share + (f": {first_ten(pairs, 2)}" if pairs else "")
    if clips := validation["clips"]:
        share = _share(validation["shared_recording_clips"], clips)
        facts["validation clips from a recording also in training"] = share
        if between := report.get("validation_test"):  # runs of earlier versions lack it
            facts["test clips from a recording also in validation"] = _share(between["shared_recording_clips"], total)
    title = f"Leaks: {total:,} test clips against {report['train_clips']:,} training clips"
    return "\n".join([title, *(f"  {name}: {fact}" for name, fact in facts.items())])


def summarize_leaks(report: Mapping[str, Any]) -> str:
    """`describe_leaks` without the lines of which nothing was found: one line, where there is no leak or none known."""
    head, *lines = describe_leaks(report).removeprefix("Leaks: ").splitlines()
    shown = [line for line in lines if not line.endswith((": none", ": not known"))]
    nothing = "no leak found" if any(not line.endswith(": not known") for line in lines) else "leaks not known"
    return "\n".join([head, *shown]) if shown else f"{head}: {nothing}"


def _share(count: int | None, total: int, nothing: str = "none") -> str:
    return "not known" if count is None else f"{count:,} ({count / max(1, total):.1%})" if count else nothing


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Label, fold, group and, where they are there, start and end (seconds) of every clip of a CSV.

    Raises UserError if it cannot be read, is empty, lacks a column, or a fold or time in it is no number.
    """
    table = read_csv(path)
    found = find_columns(table.columns, {}, str(path), ("label", "fold", "group"))
    if not table.records:
        raise UserError("the table holds no clips", str(path))
    lines = [(f"{path}, line {line}", record) for line, record in table.records]
    columns = {role: np.array([record[found[role]] for _, record in lines]) for role in ("label", "group")}
    columns["fold"] = np.array([fold_number(record[found["fold"]], where) for where, record in lines])
    for role in ("start", "end") if {"start", "end"} <= found.keys() else ():
        columns[role] = np.array([seconds(record[found[role]], role, where) for where, record in lines], dtype=float)
    return columns


def table_report(columns: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The leaks of a table's folds, and as `random_80_20` those of a random split of it (None: too few clips)."""
    found = across_folds(columns)
    try:
        drawn = random(np.unique(columns["label"], return_inverse=True)[1].tolist(), seed)
    except UserError:
        return found | {"random_80_20": None}
    test = np.concatenate([drawn.validation, drawn.test])
    compared = metadata_leaks(columns, drawn.train, test)
    return found | {"random_80_20": {name: value for name, value in compared.items() if not isinstance(value, list)}}


def describe_table(found: dict[str, Any]) -> str:
    """A `table_report` in a few lines for the terminal."""
    lines = [f"{found['clips']:,} clips of {found['recordings']:,} recordings in {len(found['clips_per_fold'])} folds",
             f"Each fold against the others:{_shares(found, found['clips'])}"]  # fmt: skip
    for shared in found["shared_recordings"]:
        sides = "; ".join(f"{listed(labels)} in fold {fold}" for fold, labels in shared["labels_by_fold"].items())
        verdict = "a leak" if shared["recording"] in found["leaking_recordings"] else "UrbanSound8K's own"
        lines.append(f"  {shared['recording']}: {shared['clips']} clips, {sides} ({verdict})")
    if compared := found["random_80_20"]:
        lines.append(f"A random 80/20 split instead:{_shares(compared, compared['test_clips'])}")
    return "\n".join(lines)


def _shares(found: dict[str, Any], total: int) -> str:
    names = ("shared_recording", "shared_same_class", "time_overlap", "time_overlap_same_class")
    shared, same, overlap, same_overlap = (_share(found[f"{name}_clips"], total, "0 (0.0%)") for name in names)
    return (
        f"\n  clips whose recording is on the other side: {shared}, under the same class: {same}"
        f"\n  clips overlapping one there in time: {overlap}, of the same class: {same_overlap}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the leak report of a table; returns 1 if it has more than UrbanSound8K's five known recordings."""
    parser = CommandParser(prog="urbansound-hf leaks", description="The leak report of a table.")
    columns = "UrbanSound8K.csv, or: label, fold, group[, start, end]"
    parser.add_argument("table", type=Path, metavar="CSV", help=columns)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the random split to compare with (default %(default)s)")
    options = parser.parse_args(argv)
    found = table_report(read_table(options.table), options.seed)
    print(json.dumps(found, indent=2) if options.json else describe_table(found))
    return int(bool(found["leaking_recordings"]))
