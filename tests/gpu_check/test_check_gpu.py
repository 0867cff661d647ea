"""The program for a GPU, dry: emulated kernels on the CPU. What it must notice is planted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import report_devices

import check_gpu
import check_kernels
from check_onnxruntime import check_onnxruntime
from handmade_bundle import write_bundle


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the program with arguments; returns its exit code and its file."""

    def main(*arguments: str) -> tuple[int, dict]:
        out = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", ["check_gpu.py", "--out", str(out), *arguments])
        code = check_gpu.main()
        return code, json.loads(out.read_text(encoding="utf-8"))

    return main


@pytest.fixture
def kernels(monkeypatch, tmp_path) -> Path:
    """A copy of the kernels' sources, to be damaged, that the program compiles."""
    source = Path(shutil.copytree(check_gpu.KERNELS, tmp_path / "wkv"))
    monkeypatch.setattr(check_gpu, "KERNELS", source)
    return source


def test_everything_passes_and_the_file_says_what_it_is(run, tmp_path, capsys):
    bundle = write_bundle(tmp_path / "made.aurora")
    code, result = run("--dry-run", "--bundle", str(bundle))
    assert code == 0
    assert result["dry_run"] and result["passed"]
    assert {"commit", "packages", "gpu", "python"} <= set(result["environment"])
    sections = result["sections"]
    checked = sections["kernels against the reference"]
    assert checked["cases"] == 24
    assert 0 < max(checked["largest_errors"].values()) < 0.01
    assert sections["compute-sanitizer"] == {"left_out": "dry run"}
    speed = sections["speed of the kernels"]
    assert {"copy_gb_per_s", "Wkv6 step, 1 sequences", "Wkv7 9 tokens, 1 sequences", "targets"} <= set(speed)
    assert set(speed["forms of Wkv6"]) == {"16 tokens, 1 sequences, float16", "16 tokens, 1 sequences, float32"}
    for form in speed["forms of Wkv6"].values():
        assert form["fastest"] in form["us"]
        assert form["tensor_over_recurrent"] > 0
    assert all(target["met"] is None for target in speed["targets"].values())
    assert sections["onnxruntime"]["language, 64"]["error"] == 0
    assert sections["onnxruntime"]["operators"] == "ours"
    full = sections["full size in onnxruntime"]
    assert full["backend"] == "onnxruntime-cpu"
    assert {"prefill", "step", "vision", "memory_mib", "targets"} <= set(full)
    assert all(target["met"] is None for target in full["targets"].values())
    assert sections["a transformer of the same size"]["2 frames"]["tokens"] == 512
    assert sections["tensorrt"] == {"left_out": "tensorrt is not installed"}
    compiling = {"compile", "compile operators"}
    assert set(report_devices.GPU_SECTIONS) == set(sections) - compiling, "what the table of docs/DEVICES.md tells"
    printed = capsys.readouterr().err
    assert "left out compute-sanitizer" in printed
    assert "PASS" in printed


def test_a_wrong_kernel_fails(run, kernels, capsys):
    path = kernels / "wkv7_kernel.cu"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("removed = sum_of_column(removed);", ""), encoding="utf-8")
    code, result = run("--dry-run")
    assert code == 1
    checked = result["sections"]["kernels against the reference"]
    assert not result["passed"] and not checked["passed"]
    assert {failure["op_type"] for failure in checked["failures"]} == {"Wkv7"}
    assert {failure["B, T, H, N"][1] for failure in checked["failures"]} == {9}, "the step kernel was right"
    assert "FAILED   kernels against the reference" in capsys.readouterr().err


def test_what_does_not_compile_fails_and_the_rest_goes_on(run, kernels):
    (kernels / "wkv_launch.cpp").write_text("#error broken\n", encoding="utf-8")
    code, result = run("--dry-run")
    assert code == 1
    assert "broken" in result["sections"]["compile"]["error"]
    assert result["sections"]["onnxruntime"] == {"left_out": "no --bundle was given"}


def test_without_a_gpu_it_says_so(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert "torch sees no NVIDIA GPU here" in capsys.readouterr().err


def test_the_same_seed_repeats_the_same_errors(root, tmp_path):
    from aurora_export.plugins.wkv.cuda_library import WkvCudaLibrary
    from kernel_library import compile_emulated

    path = tmp_path / "libwkv.so"
    compile_emulated(check_gpu.KERNELS, check_gpu.EMULATION, path)
    library = WkvCudaLibrary.load(path)
    first, again, other = (check_kernels.check_kernels(library, "cpu", few=True, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["largest_errors"] != other["largest_errors"]


@pytest.mark.parametrize(("exit_code", "passed"), [(0, True), (9, False)])
def test_every_tool_of_the_sanitizer_decides(monkeypatch, tmp_path, exit_code, passed):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f'#!/bin/sh\ntest "$2" = racecheck || exit 0\necho hazard\nexit {exit_code}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = check_kernels.check_with_sanitizer(tmp_path / "lib.so")
    assert result["passed"] is passed
    assert set(result["tools"]) == {"memcheck", "racecheck", "synccheck"}
    assert ("output" in result["tools"]["racecheck"]) is not passed


def test_onnxruntime_without_its_cuda_provider_is_left_out(tmp_path):
    result = check_onnxruntime(tmp_path, dry_run=False)
    assert "has no CUDAExecutionProvider" in result["left_out"]


def test_it_runs_where_the_package_is_not_installed(root):
    program = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        "sys.path_hooks[:] = [h for h in sys.path_hooks if 'ditable' not in repr(h)]\n"
        "import importlib.util; assert importlib.util.find_spec('aurora_export') is None\n"
        "import source_tree; source_tree.make_importable()\n"
        "import aurora_export.plugins.wkv.cuda_library as m, aurora_export.plugins.wkv.reference, environment\n"
        "print(m.__file__)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=root / "gpu_check", capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "aurora-source-" in process.stdout


def test_there_are_as_many_cases_as_the_readme_says(root):
    assert f"{len(list(check_kernels.cases()))} calls" in (root / "gpu_check/README.md").read_text(encoding="utf-8")


def test_the_table_tells_what_a_gpu_said():
    of_a_gpu = {
        "dry_run": False,
        "environment": {"gpu": "H100"},
        "sections": {
            "onnxruntime": {"passed": False},
            "tensorrt": {"left_out": "tensorrt is not installed"},
            "speed of the kernels": {
                "forms of Wkv6": {"16 tokens": {"fastest": "tensor_16", "tensor_over_recurrent": 1.25}}
            },
            "compute-sanitizer": {"passed": True},
        },
    }
    verdicts = {name: report_devices._verdict(of_a_gpu, name) for name in of_a_gpu["sections"]}
    assert verdicts == {
        "onnxruntime": "H100: FAILED",
        "tensorrt": "H100: left out, tensorrt is not installed",
        "speed of the kernels": "H100: measured; 16 tokens: tensor_16 fastest, tensor 1.25 times as fast as recurrent",
        "compute-sanitizer": "H100: passed",
    }
    assert report_devices._verdict(of_a_gpu | {"dry_run": True}, "onnxruntime") == "never run"
    assert report_devices._verdict(None, "onnxruntime") == "never run"
