"""Writes src/contract.h from core/contract.py: names, types and shapes of the graphs' inputs and outputs, and limits.

python runtime/cpp/contract_header.py     (tests/runtime/test_contract_header.py fails while the file is stale)
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES, GraphSpec, TensorSpec, graphs

HEADER = Path(__file__).resolve().parent / "src/contract.h"

FIELDS = ("vision.image_size", "language.width", "language.vocabulary_size", "language.n_layers", "language.head_size")
SIZES = (*FIELDS, "vision.n_patches", "tokens_per_frame", "language.n_heads")
"""What a size of the contract can be; those that are no fields are functions in C++."""

TEXT = """\
// Names, types and shapes of the inputs and outputs of both graphs, and limits.
// Made from core/contract.py by runtime/cpp/contract_header.py: do not edit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "config.h"

namespace aurora {{

// Most tokens of one run of the language graph; prefill is cut into chunks of at most this many.
constexpr std::int64_t MAX_CHUNK_TOKENS = {max_chunk_tokens};

// The recurrent state, in order; each comes out of the language graph as next_<name>.
constexpr std::size_t N_STATES = {n_states};
constexpr std::array<const char*, N_STATES> STATE_NAMES = {{{{{state_names}}}}};
constexpr std::array<const char*, N_STATES> NEXT_STATE_NAMES = {{{{{next_state_names}}}}};

// A size, or the letter of a dimension that is free at run time: F frames, B sequences, T tokens.
using Size = std::variant<std::int64_t, std::string>;

struct TensorSpec {{
    std::string name, dtype;
    std::vector<Size> shape;

    bool operator==(const TensorSpec& other) const {{
        return name == other.name && dtype == other.dtype && shape == other.shape;
    }}
}};

struct GraphSpec {{
    std::vector<TensorSpec> inputs, outputs;

    bool operator==(const GraphSpec& other) const {{ return inputs == other.inputs && outputs == other.outputs; }}
}};

{constants}

// The contract of both graphs: "vision" and "language".
inline std::map<std::string, GraphSpec> graphs(const AuroraConfig& config) {{
    return {{
{graphs}
    }};
}}

}}  // namespace aurora
"""


def probe_config() -> AuroraConfig:
    """A config in which every expression has another value, so that a size tells what it is."""
    return config_from_parts(
        {
            "vision": {"image_size": 240, "patch_size": 16, "width": 8, "n_layers": 4, "n_heads": 2, "mlp_width": 8},
            "projector": {"hidden_width": 8},
            "language": {
                "version": 6,
                "n_layers": 7,
                "width": 320,
                "head_size": 64,
                "ffn_width": 8,
                "vocabulary_size": 1000,
                "low_ranks": {"mix": 2, "decay": 2},
            },
        }
    )


def header_text() -> str:
    """The content of contract.h."""
    config = probe_config()
    expression_of: dict[int, str] = {}
    for path in SIZES:
        value = attrgetter(path)(config)
        if value in expression_of:
            raise ValueError(f"the probe has {value} twice: {expression_of[value]} and {path}")
        expression_of[value] = f"config.{path}{'' if path in FIELDS else '()'}"
    specs = graphs(config)
    names = sorted({tensor.name for spec in specs.values() for tensor in (*spec.inputs, *spec.outputs)})
    return TEXT.format(
        max_chunk_tokens=MAX_CHUNK_TOKENS,
        n_states=len(STATE_NAMES),
        state_names=", ".join(f'"{name}"' for name in STATE_NAMES),
        next_state_names=", ".join(f'"next_{name}"' for name in STATE_NAMES),
        constants="\n".join(f'constexpr const char* {name.upper()} = "{name}";' for name in names),
        graphs="\n".join(_graph(name, spec, expression_of) for name, spec in specs.items()),
    )


def _graph(name: str, spec: GraphSpec, expression_of: dict[int, str]) -> str:
    lists = (
        "{\n" + "".join(f"                {_tensor(tensor, expression_of)},\n" for tensor in tensors) + "            }"
        for tensors in (spec.inputs, spec.outputs)
    )
    return f'        {{"{name}",\n         {{{", ".join(lists)}}}}},'


def _tensor(tensor: TensorSpec, expression_of: dict[int, str]) -> str:
    sizes = (_size(entry, expression_of) for entry in tensor.shape)
    return f'{{{tensor.name.upper()}, "{tensor.dtype}", {{{", ".join(sizes)}}}}}'


def _size(entry: int | str, expression_of: dict[int, str]) -> str:
    if isinstance(entry, str):
        return f'std::string("{entry}")'
    return expression_of.get(entry, f"std::int64_t{{{entry}}}")  # what no config decides: channels


if __name__ == "__main__":
    HEADER.write_text(header_text(), encoding="utf-8")
