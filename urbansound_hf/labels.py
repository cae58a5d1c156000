"""What is fixed about UrbanSound8K: its classes, its official counts, its source and its licence."""

from __future__ import annotations

CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
    "engine_idling", "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip
"""The ten classes; the position is the data set's own `classID`."""

CLIPS_PER_CLASS = dict(zip(CLASSES, (1000, 429, 1000, 1000, 1000, 1000, 374, 1000, 929, 1000), strict=True))
CLIPS_PER_FOLD = dict(zip(range(1, 11), (873, 888, 925, 990, 936, 823, 838, 806, 816, 837), strict=True))
TOTAL_CLIPS = 8732

RECORDINGS_IN_TWO_FOLDS = frozenset({77751, 106905, 132016, 176638, 180937})
"""The five Freesound ids that the official folds themselves split (152 clips); any sixth is a leak."""

CLIP_SECONDS = 4.0  # the longest clip

SOURCE_URL = "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz?download=1"
SOURCE_MD5 = "9aa69802bbf37fb986f71ec1483a196e"
DOI = "10.5281/zenodo.1203745"
HOMEPAGE = "https://urbansounddataset.weebly.com/urbansound8k.html"
LICENCE = "CC BY-NC 3.0 (non-commercial, with attribution; per-file credits in FREESOUNDCREDITS.txt)"
LICENCE_ID = "cc-by-nc-3.0"
CITATION = """@inproceedings{Salamon:UrbanSound:ACMMM:14,
  author    = {Salamon, Justin and Jacoby, Christopher and Bello, Juan Pablo},
  title     = {A Dataset and Taxonomy for Urban Sound Research},
  booktitle = {22nd {ACM} International Conference on Multimedia (ACM-MM'14)},
  year      = {2014},
  pages     = {1041--1044},
  address   = {Orlando, FL, USA},
}"""
