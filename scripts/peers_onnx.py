"""A Llama model as an ONNX graph for onnxruntime, from the values that a file decodes to.

Per layer: SimplifiedLayerNormalization, q, k, v, GroupQueryAttention with rotation and a cache that it writes in place,
o, residual, norm, gate, up, Sigmoid and products, down, residual. A matrix is float32 (MatMul), or 4-bit integers in
blocks of 32 with a scale each, rounded to nearest (MatMulNBits, whose accuracy_level 4 asks for 8-bit activations).
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOM = 1024
BLOCK = 32
MICROSOFT = "com.microsoft"


def int4_blocks(w_oi: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(O, I) -> (O, I/32, 16) nibbles, the lower first, and (O·I/32) scales: w ≈ scale·(q − 8).

    Raises:
        ValueError: I is no whole blocks.
    """
    rows, columns = w_oi.shape
    if columns % BLOCK:
        raise ValueError(f"rows of {columns} are no whole blocks of {BLOCK}; leave such a matrix in float32")
    blocks = w_oi.reshape(rows, columns // BLOCK, BLOCK)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(7)
    q = np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)) + 8
    codes = q.astype(np.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scale.reshape(-1)


class Graph:
    """Nodes and constants as they are added; every method gives the name of its result."""

    def __init__(self, weights: str) -> None:
        import onnx

        self.onnx = onnx
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An array that the graph holds."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, given: list[str], name: str, more: tuple[str, ...] = (), **attributes: Any) -> str:
        """An operator; a name with a dot in front is Microsoft's."""
        domain = MICROSOFT if kind.startswith(".") else ""
        made = self.onnx.helper.make_node(
            kind.lstrip("."), given, [name, *more], name=name, domain=domain, **attributes
        )
        self.nodes.append(made)
        return name

    def norm(self, x: str, name: str, w: NDArray[np.float32], eps: float) -> str:
        """The root-mean-square norm over the last axis."""
        given = [x, self.constant(f"{name}.w", w)]
        return self.node("SimplifiedLayerNormalization", given, name, axis=-1, epsilon=eps, stash_type=1)

    def linear(self, x: str, name: str, w_oi: NDArray[np.float32]) -> str:
        """X·wᵀ."""
        if self.weights == "float32":
            return self.node("MatMul", [x, self.constant(f"{name}.w", w_oi.T)], name)
        codes, scales = int4_blocks(w_oi)
        given = [x, self.constant(f"{name}.q", codes), self.constant(f"{name}.d", scales)]
        o, i = w_oi.shape
        return self.node(".MatMulNBits", given, name, K=i, N=o, bits=4, block_size=BLOCK, accuracy_level=4)


def rotation(width: int, theta: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(ROOM, width/2) cosines and sines."""
    angles = np.arange(ROOM)[:, None] * theta ** (-np.arange(0, width, 2) / width)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def llama(parts: Any, weights: str) -> Any:
    """The whole graph: ids and caches in, the last token's logits and the caches out.

    Raises:
        ValueError: another family than Llama.
    """
    from lepton_ref.models.llama import SAFETENSORS, LlamaConfig

    c = parts.config
    if type(c) is not LlamaConfig or c.attention_bias or c.mlp_bias or c.rope.kind != "default":
        raise ValueError(f"the graph for onnxruntime is written for a plain Llama, not for this {parts.architecture}")
    every = {SAFETENSORS.source(name)[1]: weight for name, weight in parts.weights.items()}
    width = c.head_dim

    def of(name: str) -> NDArray[np.float32]:
        return np.asarray(every[name].decode(), dtype=np.float32)

    g = Graph(weights)
    cos, sin = (g.constant(name, array) for name, array in zip("cs", rotation(width, c.rope.theta), strict=True))
    table = g.constant("embed", of("model.embed_tokens.weight"))
    x = g.node("Gather", [table, "ids"], "x")
    for layer in range(c.num_hidden_layers):
        p = f"model.layers.{layer}."
        h = g.norm(x, f"{p}n1", of(f"{p}input_layernorm.weight"), c.rms_norm_eps)
        q, k, v = (g.linear(h, f"{p}{one}", of(f"{p}self_attn.{one}_proj.weight")) for one in "qkv")
        a = g.node(
            ".GroupQueryAttention",
            [q, k, v, f"k{layer}", f"v{layer}", "last", "total", cos, sin],
            f"{p}a",
            (f"K{layer}", f"V{layer}"),
            num_heads=c.num_attention_heads,
            kv_num_heads=c.num_key_value_heads,
            do_rotary=1,
        )
        x = g.node("Add", [x, g.linear(a, f"{p}o", of(f"{p}self_attn.o_proj.weight"))], f"{p}r1")
        h = g.norm(x, f"{p}n2", of(f"{p}post_attention_layernorm.weight"), c.rms_norm_eps)
        gate, up = (g.linear(h, f"{p}{one}", of(f"{p}mlp.{one}_proj.weight")) for one in ("gate", "up"))
        silu = g.node("Mul", [gate, g.node("Sigmoid", [gate], f"{p}s")], f"{p}silu")
        f = g.linear(g.node("Mul", [silu, up], f"{p}f"), f"{p}down", of(f"{p}mlp.down_proj.weight"))
        x = g.node("Add", [x, f], f"{p}r2")
    one = g.constant("one", np.array([-1], dtype=np.int64))
    h = g.norm(g.node("Gather", [x, one], "behind", axis=1), "n", of("model.norm.weight"), c.rms_norm_eps)
    head = "lm_head.weight" if "lm_head.weight" in every else "model.embed_tokens.weight"
    g.linear(h, "logits", of(head))
    return finished(g, c.num_hidden_layers, c.num_key_value_heads, width)


def finished(g: Graph, layers: int, groups: int, width: int) -> Any:
    """The model with its inputs and outputs."""
    helper, kinds = g.onnx.helper, g.onnx.TensorProto
    cache = (kinds.FLOAT, [1, groups, ROOM, width])
    given = [("ids", kinds.INT64, [1, "T"]), ("last", kinds.INT32, [1]), ("total", kinds.INT32, [])]
    given += [(f"{one}{layer}", *cache) for layer in range(layers) for one in "kv"]
    out = [("logits", kinds.FLOAT, [1, 1, "V"])]
    out += [(f"{one}{layer}", *cache) for layer in range(layers) for one in "KV"]
    inputs, outputs = ([helper.make_tensor_value_info(*one) for one in some] for some in (given, out))
    graph = helper.make_graph(g.nodes, "llama", inputs, outputs, g.constants)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=9)


class OnnxRuntime:
    """onnxruntime's processor provider with so many threads; the caches are written in place."""

    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        import onnxruntime

        import lepton_ref

        parts = lepton_ref.load(path).parts
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        model = llama(parts, options["weights"]).SerializeToString()
        self.lib = onnxruntime
        self.session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        c = parts.config
        self.vocabulary = c.vocab_size
        shape = (1, c.num_key_value_heads, ROOM, c.head_dim)
        self.caches = {
            f"{one}{layer}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
            for layer in range(c.num_hidden_layers)
            for one in "kv"
        }
        self.used = 0
        self.known: tuple[list[int], int] = ([], 0)

    def reset(self) -> None:
        """Forget every token."""
        self.used, self.known = 0, ([], 0)

    def feed(self, ids: list[int]) -> int:
        """Run these ids behind the others; the id of the largest logit of the last."""
        self.used += len(ids)
        binding = self.session.io_binding()
        binding.bind_cpu_input("ids", np.array([ids], dtype=np.int64))
        binding.bind_cpu_input("last", np.array([self.used - 1], dtype=np.int32))
        binding.bind_cpu_input("total", np.array(self.used, dtype=np.int32))
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.upper(), value)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        return int(binding.get_outputs()[-1].numpy()[0, -1].argmax())

    def after(self, ids: list[int]) -> int:
        """As reset() and feed(ids); of ids that were fed before the cache still holds what they made."""
        known, token = self.known
        if known != ids:
            self.reset()
            token = self.feed(ids)
            self.known = (list(ids), token)
        self.used = len(ids)
        return token

    def versions(self) -> dict[str, str]:
        """What the figures are of."""
        return {"onnxruntime": self.lib.__version__, "python": platform.python_version()}
