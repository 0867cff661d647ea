from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aurora_export.errors import AccuracyError, IntegrityError
from aurora_export.export.comparison import require_within_limits
from aurora_export.export.selfcheck import run_selfcheck
from aurora_export.runtime.opened_bundle import open_bundle

PATH = "selfcheck/selfcheck.safetensors"


def run(folder, opened):
    return run_selfcheck(folder, opened.manifest, opened.vision, opened.language)


@pytest.fixture(scope="module")
def opened(built6):
    return open_bundle(built6.path)


def test_finished_bundle_passes(built):
    opened = open_bundle(built.path)
    verification = run(built.path, opened)
    require_within_limits(verification, hint="")
    assert (verification.n_frames, verification.n_tokens) == (2, 5)
    recorded = built.manifest.verification.outputs
    assert all(measured.limit == recorded[name].limit for name, measured in verification.outputs.items())


def test_needs_no_torch(built6):
    code = (
        "import sys; from pathlib import Path\n"
        "from aurora_export.export.selfcheck import run_selfcheck\n"
        "from aurora_export.runtime.opened_bundle import open_bundle\n"
        "path = Path(sys.argv[1]); opened = open_bundle(path)\n"
        "run_selfcheck(path, opened.manifest, opened.vision, opened.language)\n"
        "assert not {'torch', 'onnx', 'onnxscript'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(built6.path)], check=True)


@pytest.mark.parametrize("name", ["logits", "next_wkv", "visual_tokens"])
def test_other_numbers_are_found(bundle_copy, opened, name):
    arrays = load_file(bundle_copy / PATH)
    arrays[name] = (arrays[name] * 1.001).astype(np.float32)
    save_file(arrays, bundle_copy / PATH)
    with pytest.raises(AccuracyError, match=f"^{name}: error"):
        require_within_limits(run(bundle_copy, opened), hint="")


def test_missing_array(bundle_copy, opened):
    arrays = load_file(bundle_copy / PATH)
    del arrays["next_wkv"]
    save_file(arrays, bundle_copy / PATH)
    with pytest.raises(IntegrityError, match="next_wkv is missing or of another shape"):
        run(bundle_copy, opened)


def test_no_safetensors_file(bundle_copy, opened):
    (bundle_copy / PATH).write_bytes(b"nonsense")
    with pytest.raises(IntegrityError, match="not a self-check"):
        run(bundle_copy, opened)
