"""ECAPA-TDNN gives SpeechBrain's own numbers, by the names of SpeechBrain's own folders, and trains like any family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from tests.test_models import arguments
from urbansound_hf import features, models
from urbansound_hf.errors import UserError
from urbansound_hf.labels import CLASSES
from urbansound_hf.models import adapt, convert_ecapa, ecapa_tdnn
from urbansound_hf.models.ecapa_tdnn import (
    EcapaTdnnConfig,
    EcapaTdnnFeatureExtractor,
    EcapaTdnnForAudioClassification,
)
from urbansound_hf.models.probe import LinearProbe, embed

needs_speechbrain = pytest.importorskip if False else None
