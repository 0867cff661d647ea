from __future__ import annotations

import json
import subprocess
import sys

import aurora_export


def test_everything_is_installed_here(invoke):
    result = invoke("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["run: usable", "build: usable"]
    assert "CPUExecutionProvider" in result.stdout


def test_one_json_object(invoke):
    report = json.loads(invoke("doctor", "--json").stdout)
    assert report["aurora_export"] == aurora_export.__version__
    assert report["usable"] == {"run": True, "build": True}
    assert report["packages"]["onnxruntime"]["version"]
    assert report["threads"] >= 1


def test_what_is_missing_is_named_with_the_command():
    program = "import sys; sys.modules['onnxruntime'] = None; from aurora_export.cli import main; main(['doctor'])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 7
    assert "onnxruntime  missing, needed by run: pip install 'aurora-export[cpu]'" in process.stdout
    assert process.stdout.splitlines()[-2:] == ["run: not usable", "build: not usable"]


def test_native_operators_are_named(invoke, monkeypatch):
    report = json.loads(invoke("doctor", "--json").stdout)["operators"]
    if report["library"]:
        assert report["levels"][report["level"]]
        assert f"native operators: {report['level']}" in invoke("doctor").stdout
    monkeypatch.setenv("AURORA_CPU_LIBRARY", "off")
    assert "native operators: none, graphs run slower (AURORA_CPU_LIBRARY is off)" in invoke("doctor").stdout
    assert json.loads(invoke("doctor", "--json").stdout)["operators"]["library"] is None


def test_what_a_gpu_would_need_is_named(invoke, monkeypatch):
    from aurora_export import nvidia_driver

    monkeypatch.setattr(nvidia_driver, "LIBRARY", "libno_such_driver.so.1")
    assert "GPU: none (no NVIDIA driver: libno_such_driver" in invoke("doctor").stdout
    gpu = nvidia_driver.Gpu(0, "Orin", "8.7", 2**33, "12.6")
    monkeypatch.setattr(nvidia_driver, "gpus", lambda: (gpu,))
    monkeypatch.setenv("AURORA_CUDA_LIBRARIES", "/nowhere")
    said = invoke("doctor").stdout
    assert "GPU 0: Orin, 8.7, CUDA 12.6" in said
    assert "--device cuda: onnxruntime has no CUDA provider: pip install 'aurora-export[gpu]'" in said
    assert "--device tensorrt: " in said and "--device tensorrt-rtx: " in said
    report = json.loads(invoke("doctor", "--json").stdout)["gpu"]
    assert report["gpus"][0]["compute_capability"] == "8.7"
    assert "no /nowhere/libaurora_ort_cuda.so" in report["cuda"]["problem"]
    assert "no /nowhere/libaurora_tensorrt.so" in report["tensorrt"]["problem"]
    assert "no /nowhere" not in (report["tensorrt-rtx"]["problem"] or ""), "it has no plugins"
