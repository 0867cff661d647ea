"""Packaging: folder <name>/ is imported as aurora_export.<name>; core/ is aurora_export itself."""

import os
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
FOLDERS = {"aurora_export": "core"}
for name in ("model", "plugins", "calibration", "export", "runtime", "cli"):
    FOLDERS[f"aurora_export.{name}"] = name

# The version is written in core/__init__.py only; it is read as text, so that a build imports nothing of ours.
VERSION = re.search(r'^__version__ = "([^"]+)"$', (HERE / "core/__init__.py").read_text(encoding="utf-8"), re.M)[1]

# The base install runs bundles; onnxruntime and onnxruntime-gpu exclude each other, so the engine is an extra.
# Older releases are untested, and some open external data outside the bundle (tests/runtime/test_engine_onnx.py).
CPU = ["onnxruntime>=1.31"]
EXPORT = ["torch>=2.10", "onnx>=1.20", "onnxscript>=0.6"]
PLOTS = ["matplotlib>=3.9"]
RAY = ["ray[data]>=2.50"]
TOOLS = ["build", "mypy", "pytest", "pytest-xdist", "ruff", "setuptools>=70.1"]
ORACLES = ["hypothesis", "pillow", "rwkv", "transformers"]


class LibraryBuild(build_ext):
    """Builds the operator library as a plain shared object: it is loaded by ONNX Runtime and knows no Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the tag of a Python version."""
        return f"{fullname.replace('.', os.sep)}.so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """There is no PyInit_ function."""
        return list(ext.export_symbols)


class PlatformWheel(bdist_wheel):
    """Any Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag of the platform, and no other."""
        return "py3", "none", super().get_tag()[2]


# No -march: each level names its instruction set in its source, and one is chosen at run time.
CPU_LIBRARY = Extension(
    "aurora_export.plugins.cpu.aurora_cpu",
    sources=sorted(
        path.relative_to(HERE).as_posix()
        for pattern in ("plugins/cpu/*.cpp", "plugins/*/*_cpu.cpp")
        for path in HERE.glob(pattern)
    ),
    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"],
    language="c++",
    optional=True,  # without a compiler the functions in the graphs run
)

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
    ext_modules=[CPU_LIBRARY],
    cmdclass={"build_ext": LibraryBuild, "bdist_wheel": PlatformWheel},
    install_requires=["av>=14", "click>=8.1", "numpy>=1.26", "pydantic>=2.7", "rich>=13", "safetensors>=0.4.3"],
    extras_require={
        "cpu": CPU,
        "gpu": ["onnxruntime-gpu>=1.31"],
        # A build ends with a comparison through an engine, so `export` wants `cpu` or `gpu` beside it: [export,cpu].
        "export": EXPORT,
        "plots": PLOTS,
        "ray": RAY,
        "tensorrt-rtx": ["tensorrt-rtx>=1.7.1"],
        # Of the CUDA that is installed. TensorRT itself comes with a Jetson, or from NVIDIA: docs/DEVICES.md.
        "tensorrt": ["cuda-python>=12.6"],
        # Where the machine has no nvcc and cmake of its own: see the Makefile.
        "dev-cpp": ["cmake>=3.24"],
        "dev-cuda": [
            "cmake>=3.24",
            *(f"nvidia-{name}>=13" for name in ("cuda-cccl", "cuda-crt", "cuda-nvcc", "cuda-runtime", "nvvm")),
        ],
        # Large, and NVIDIA's own licence: a plugin registry and a builder that need no GPU, for `make tensorrt` only.
        "dev-tensorrt": ["polygraphy>=0.53.6", "tensorrt-lean-cu13>=11.4", "tensorrt-rtx>=1.7.1"],
        "dev": [*CPU, *EXPORT, *TOOLS, *ORACLES, *RAY],
    },
    entry_points={"console_scripts": ["aurora-export = aurora_export.cli:main"]},
)
