"""Packaging: folder <name>/ is imported as aurora_export.<name>; core/ is aurora_export itself."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
FOLDERS = {"aurora_export": "core"}
for name in ("model", "plugins", "export", "runtime", "cli"):
    FOLDERS[f"aurora_export.{name}"] = name

# The version is written in core/__init__.py only; it is read as text, so that a build imports nothing of ours.
VERSION = re.search(r'^__version__ = "([^"]+)"$', (HERE / "core/__init__.py").read_text(encoding="utf-8"), re.M)[1]

# The base install runs bundles; onnxruntime and onnxruntime-gpu exclude each other, so the engine is an extra.
# Older releases are untested, and some open external data outside the bundle (tests/runtime/test_engine_onnx.py).
CPU = ["onnxruntime>=1.31"]
EXPORT = ["torch>=2.10", "onnx>=1.20", "onnxscript>=0.6"]
TOOLS = ["build", "mypy", "pytest", "pytest-xdist", "ruff", "setuptools>=70.1"]
ORACLES = ["hypothesis", "pillow", "rwkv", "transformers"]

setup(
    name="aurora-export",
    version=VERSION,
    description="Export AuroraLong to ONNX, and ask it about videos without PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_dir=FOLDERS,
    packages=[*FOLDERS, *(f"{package}.{sub}" for package, folder in FOLDERS.items() for sub in find_packages(folder))],
    package_data={"aurora_export": ["py.typed"]},
    install_requires=["av>=14", "click>=8.1", "numpy>=1.26", "pydantic>=2.7", "rich>=13", "safetensors>=0.4.3"],
    extras_require={
        "cpu": CPU,
        "gpu": ["onnxruntime-gpu>=1.31"],
        # A build ends with a comparison through an engine, so `export` wants `cpu` or `gpu` beside it: [export,cpu].
        "export": EXPORT,
        "tensorrt-rtx": ["tensorrt-rtx>=1.7.1"],
        # Where the machine has no nvcc and cmake of its own: see the Makefile.
        "dev-cuda": [
            "cmake>=3.24",
            *(f"nvidia-{name}>=13" for name in ("cuda-cccl", "cuda-crt", "cuda-nvcc", "cuda-runtime", "nvvm")),
        ],
        # Large, and NVIDIA's own licence: a plugin registry and a builder that need no GPU, for `make tensorrt` only.
        "dev-tensorrt": ["tensorrt-lean-cu13>=11.4", "tensorrt-rtx>=1.7.1"],
        "dev": [*CPU, *EXPORT, *TOOLS, *ORACLES],
    },
    entry_points={"console_scripts": ["aurora-export = aurora_export.cli:main"]},
)
