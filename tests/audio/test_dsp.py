"""Filters and scales, against the libraries that define them."""

from __future__ import annotations

import numpy as np
import pytest

from urbansound_hf.audio.dsp import mel_edges, mel_filters


@pytest.mark.parametrize(("bins", "n_mels", "rate"), [(513, 64, 16_000), (1025, 128, 22_050), (257, 40, 11_025)])
def test_mel_filters_are_torchaudios(bins, n_mels, rate):
    from torchaudio.functional import melscale_fbanks

    expected = melscale_fbanks(bins, 0.0, rate / 2, n_mels, rate).numpy().T
    np.testing.assert_allclose(mel_filters(bins, mel_edges(n_mels, 0, rate / 2), rate), expected, atol=1e-4)
