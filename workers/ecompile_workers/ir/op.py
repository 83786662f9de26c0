"""Names of all operators and element types. What they mean is in the table, `operators/`."""

from __future__ import annotations

from enum import StrEnum


class DType(StrEnum):
    """What a tensor that flows holds. Weights are float32."""

    FLOAT32 = "float32"
    INT64 = "int64"
    BOOL = "bool"


class Op(StrEnum):
    """All operators, by family; one file of `operators/` each."""

    GEMM = "gemm"
    MATMUL = "matmul"
    EMBEDDING = "embedding"
    ATTENTION = "attention"

    CONV = "conv"
    MAX_POOL = "max_pool"
    AVERAGE_POOL = "average_pool"

    BATCH_NORM = "batch_norm"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"

    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    GELU = "gelu"
    SILU = "silu"
    HARD_SIGMOID = "hard_sigmoid"
    HARD_SWISH = "hard_swish"
    CLIP = "clip"
    NEG = "neg"
    ABS = "abs"
    SQRT = "sqrt"
    EXP = "exp"
    LOG = "log"
    ERF = "erf"
    NOT = "not"
    CAST = "cast"

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    EQUAL = "equal"
    LESS = "less"
    LESS_OR_EQUAL = "less_or_equal"
    GREATER = "greater"
    GREATER_OR_EQUAL = "greater_or_equal"
    AND = "and"
    OR = "or"
    WHERE = "where"

    SOFTMAX = "softmax"
    REDUCE_MEAN = "reduce_mean"
    REDUCE_SUM = "reduce_sum"
    REDUCE_MAX = "reduce_max"
    REDUCE_MIN = "reduce_min"

    RESHAPE = "reshape"
    EXPAND = "expand"
    TRANSPOSE = "transpose"
    CONCAT = "concat"
    SLICE = "slice"
    GATHER = "gather"
    PAD = "pad"

    LSTM = "lstm"
    GRU = "gru"

    OPAQUE = "opaque"
    """Not known to us; `Node.source` names the operator. Stays neural."""
