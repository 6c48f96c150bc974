"""From a torch module or an ONNX file to a graph with sizes and arithmetic, its legal cuts, and its parts."""

from tierwise.capture._cuts import Cut, cut_points, find_cut
from tierwise.capture._export import export, origin, quietly, trace
from tierwise.capture._graph import Graph, Node, Tensor, read_graph
from tierwise.capture._load import load_onnx
from tierwise.capture._macs import COMPUTE_OPS, node_macs
from tierwise.capture._split import Affine, composition_error, run, split

__all__ = [
    "COMPUTE_OPS",
    "Affine",
    "Cut",
    "Graph",
    "Node",
    "Tensor",
    "composition_error",
    "cut_points",
    "export",
    "find_cut",
    "load_onnx",
    "node_macs",
    "origin",
    "quietly",
    "read_graph",
    "run",
    "split",
    "trace",
]
