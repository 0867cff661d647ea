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
