"""The checker: re-derives every claim of a certificate from the graph and the certificate alone.

It shares nothing with the code that makes certificates but the IR. What is trusted is this file, numpy's float64
arithmetic and the code printer. The claims, in the order they are checked:

1. The certificate is about this graph (digest), and is well formed.
2. The guard tree sends an input to region r only if the input lies in r's box.
3. Units said to be off (`-`) or on (`+`, `=`) cannot switch for any real input in the box.
4. The region's float32 steps, evaluated in float32 in any order, differ from the graph evaluated in real numbers by at
   most `realBound`, and from the graph evaluated in float32 in any order by at most `bound`, for each output.

Arithmetic is on balls (middle, radius) that include the rounding of float64 (Rump, BIT 39, 1999; Higham, Accuracy and
Stability of Numerical Algorithms, 2nd edition, chapter 3). Bounds are linear (CROWN, Zhang et al. 2018) or intervals.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ecompile_crds.errors import Code, ModelError
from numpy.typing import NDArray

from ..ir import serialize
from ..ir.attributes import Epsilon
from ..ir.graph import Graph, Node, Op

Vector = NDArray[np.float64]
SCHEMA_VERSION = 1
ROUNDOFF = 2.0**-53
FLOAT32_ROUNDOFF = 2.0**-24
LOST = 2.0**-124
"""What one float32 product of factors up to 1 may lose to underflow, flushed to zero or not."""
PAD = 1e-280  # Covers underflow in float64.


class FalseClaim(ModelError):
    """The first claim that does not hold."""

    def __init__(self, claim: str) -> None:
        super().__init__(Code.NOT_EQUIVALENT, f"the certificate does not hold: {claim}.")


def require(holds: bool, claim: str) -> None:
    if not holds:
        raise FalseClaim(claim)


# ---- Arithmetic with known error.
def slack(count: int) -> float:
    """At least twice the relative error of `count` float64 roundings."""
    return 4.0 * (count + 3) * ROUNDOFF


def product_up(a: Vector, b: Vector) -> Vector:
    """a @ b, rounded up."""
    count = a.shape[-1]
    return np.asarray(a @ b + (np.abs(a) @ np.abs(b)) * slack(count) + PAD * (count + 1))


def sum_up(*terms: Vector) -> Vector:
    """Sum, rounded up."""
    total = np.asarray(sum(terms))
    return np.asarray(total + np.asarray(sum(np.abs(term) for term in terms)) * slack(len(terms)) + PAD)


@dataclass(frozen=True)
class Ball:
    """All arrays within `radius` of `middle`, elementwise."""

    middle: Vector
    radius: Vector

    @classmethod
    def exactly(cls, values: NDArray[Any]) -> Ball:
        middle = values.astype(np.float64)
        return cls(middle, np.zeros_like(middle))

    @property
    def size(self) -> Vector:
        return sum_up(np.abs(self.middle), self.radius)

    def __matmul__(self, other: Ball) -> Ball:
        a, b = np.abs(self.middle), np.abs(other.middle)
        rounding = (a @ b) * slack(a.shape[-1]) + PAD * (a.shape[-1] + 1)
        spread = sum_up(product_up(a, other.radius), product_up(self.radius, other.size), rounding)
        return Ball(self.middle @ other.middle, spread)

    def __add__(self, other: Ball) -> Ball:
        middle = self.middle + other.middle
        return Ball(middle, sum_up(self.radius, other.radius, np.abs(middle) * slack(1)))

    def __mul__(self, other: Ball) -> Ball:
        middle = self.middle * other.middle
        spread = sum_up(np.abs(self.middle) * other.radius, self.radius * other.size, np.abs(middle) * slack(1))
        return Ball(middle, spread)

    def __getitem__(self, key: Any) -> Ball:
        return Ball(self.middle[key], self.radius[key])


# ---- The graph as layers.
@dataclass(frozen=True)
class Affine:
    """z = a W + b; in float32 some order of at most `roundings` per term, on magnitudes a |W| + |b|."""

    weight: Ball
    bias: Ball
    weight_size: Vector
    bias_size: Vector
    roundings: int

    def then(self, weight: Ball, bias: Ball, bias_size: Vector, roundings: int) -> Affine:
        """Followed by another one."""
        sizes = product_up(self.weight_size, weight.size), product_up(self.bias_size, weight.size)
        moved = (self.bias[None] @ weight)[0] + bias
        return Affine(self.weight @ weight, moved, sizes[0], sum_up(sizes[1], bias_size), self.roundings + roundings)


def read_layers(graph: Graph) -> list[Affine]:
    """Layers with a ReLU between each two. One may follow the last: it only brings differences closer to zero.

    Raises FalseClaim where the graph is no such chain.
    """
    layers: list[Affine] = []
    current: Affine | None = None
    name = graph.input.name
    for node in graph.nodes:
        require(node.inputs == (name,), f"the graph is not a chain at {node.output.name}")
        name = node.output.name
        if node.op is Op.RESHAPE:
            continue
        if node.op is Op.RELU:
            if current is None:
                raise FalseClaim(f"{name} is a ReLU of the inputs or of a ReLU")
            layers, current = [*layers, current], None
            continue
        weight, bias, bias_size, roundings = _operator(node)
        if weight.middle.ndim == 1:
            weight = Ball(np.diag(weight.middle), np.diag(weight.radius))
        if current is None:
            eye = np.eye(layers[-1].bias.middle.size if layers else graph.input.size)
            current = Affine(Ball.exactly(eye), Ball.exactly(eye[0] * 0), eye, eye[0] * 0, 0)
        require(current.bias.middle.size == weight.middle.shape[0], f"{name} reads another size")
        current = current.then(weight, bias, bias_size, roundings)
    layers += [current] if current is not None else []
    require(bool(layers) and name == graph.output.name, "the graph ends in its output")
    return layers


def _operator(node: Node) -> tuple[Ball, Ball, Vector, int]:
    """(weight, bias, size of the bias, roundings) of an affine operator; the weight is a vector where elementwise."""
    name, shape, constants = node.output.name, node.output.shape, node.constants
    if node.op is Op.GEMM:
        require(constants.keys() == {"weight", "bias"}, f"the weights of {name} are computed")
        weight, bias = constants["weight"], constants["bias"]
        require(node.output.size == bias.size, f"{name} applies its matrix at several positions")
        return Ball.exactly(weight), Ball.exactly(bias), np.abs(bias.astype(np.float64)), weight.shape[0] + 2
    if node.op is Op.BATCH_NORM and isinstance(node.attributes, Epsilon):
        require(len(constants) == 4, f"the constants of {name} are computed")
        tall = (-1, *(1,) * (len(shape) - 1))
        c = {k: np.broadcast_to(v.astype(np.float64).reshape(tall), shape).ravel() for k, v in constants.items()}
        scale = c["gamma"] / np.sqrt(c["variance"] + node.attributes.epsilon)
        require(bool(np.isfinite(scale).all()), f"{name} has a variance that is not positive")
        shift = c["beta"] - c["mean"] * scale
        size = np.abs(c["beta"]) + np.abs(c["mean"] * scale)
        balls = Ball(scale, np.abs(scale) * slack(4) + PAD), Ball(shift, size * slack(8) + PAD)
        return *balls, size * (1 + slack(4)), 12
    require(len(constants) == 1, f"{name} is not affine")
    ((side, constant),) = constants.items()
    value = np.broadcast_to(constant.astype(np.float64), shape).ravel()
    one, zero = np.ones_like(value), np.zeros_like(value)
    match node.op:
        case Op.ADD | Op.SUB:
            flip = {side: -1.0} if node.op is Op.SUB else {}
            return Ball.exactly(one * flip.get("a", 1.0)), Ball.exactly(value * flip.get("b", 1.0)), np.abs(value), 2
        case Op.MUL:
            return Ball.exactly(value), Ball.exactly(zero), zero, 2
        case Op.DIV if side == "b" and bool((value != 0).all()):
            inverse = 1.0 / value
            return Ball(inverse, np.abs(inverse) * slack(1)), Ball.exactly(zero), zero, 2
    raise FalseClaim(f"{name} is neither affine nor a ReLU")


# ---- Bounds of units over a box.
@dataclass(frozen=True)
class Range:
    """lower <= z <= upper."""

    lower: Vector
    upper: Vector

    @property
    def largest(self) -> Vector:
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


def highest(lines: Vector, over: Range) -> Vector:
    """Upper bounds of `lines` [m, n] over a range of n values."""
    return sum_up(product_up(np.maximum(lines, 0), over.upper), product_up(np.minimum(lines, 0), over.lower))


def unit_ranges(layers: Sequence[Affine], box: Range) -> list[Range]:
    """What each layer gives before its ReLU, for any real input in the box."""
    reads, found = [box], list[Range]()
    for index, layer in enumerate(layers):
        count = layer.bias.middle.size
        # Maximise +z and -z at once.
        signed = np.concatenate([layer.weight.middle.T, -layer.weight.middle.T])
        unsure = sum_up(product_up(reads[-1].largest, layer.weight.radius), layer.bias.radius)
        constant = sum_up(np.concatenate([layer.bias.middle, -layer.bias.middle]), np.concatenate([unsure, unsure]))
        best = sum_up(highest(signed, reads[-1]), constant)
        lines = signed
        for below in range(index - 1, -1, -1):
            lines, constant = _below_relu(lines, constant, found[below])
            lines, constant = _below_affine(lines, constant, layers[below], reads[below])
        best = np.minimum(best, sum_up(highest(lines, box), constant))
        found.append(Range(-best[count:], best[:count]))
        reads.append(Range(np.maximum(-best[count:], 0), np.maximum(best[:count], 0)))
    return found


def _below_relu(lines: Vector, constant: Vector, z: Range) -> tuple[Vector, Vector]:
    """lines @ relu(z) + constant <= result @ z + result constant, for z in the range.

    relu(z) <= s z + t for any s if t covers both ends, relu being convex; relu(z) >= f z for f in [0, 1].
    """
    free = (z.lower < 0) & (z.upper > 0)
    s = np.where(free, np.clip(z.upper / np.where(free, z.upper - z.lower, 1), 0, 1), z.lower >= 0)
    t = np.where(free, np.maximum(sum_up(-s * z.lower), sum_up(z.upper, -s * z.upper)), 0.0)
    f = np.where(free, z.upper > -z.lower, s)
    positive, negative = np.maximum(lines, 0), np.minimum(lines, 0)
    through = positive * s + negative * f
    rounding = product_up(np.abs(through), z.largest * slack(1)) + PAD * lines.shape[1]
    return through, sum_up(constant, product_up(positive, t), rounding)


def _below_affine(lines: Vector, constant: Vector, layer: Affine, reads: Range) -> tuple[Vector, Vector]:
    """The same bound over what the layer reads; the radii of the new coefficients go into the constant."""
    moved = Ball.exactly(lines) @ Ball(layer.weight.middle.T, layer.weight.radius.T)
    unsure = product_up(np.abs(lines), layer.bias.radius)
    return moved.middle, sum_up(
        constant, product_up(lines, layer.bias.middle), unsure, product_up(moved.radius, reads.largest)
    )


# ---- Rounding of float32.
@dataclass(frozen=True)
class Stage:
    """One evaluated layer: it reads values[start:]; `*_off`: how far the numbers used are from the exact ones."""

    start: int
    weight: Ball
    bias: Ball
    weight_off: Vector
    bias_off: Vector
    weight_size: Vector
    bias_size: Vector
    roundings: int
    z: Range


def rounding_error(stages: Sequence[Stage], inputs: Vector) -> Vector:
    """|float32 - exact| of each output of the last stage, inputs being exact and of magnitude up to `inputs`."""
    largest, error = inputs, np.zeros_like(inputs)
    made, crude = list[Vector](), list[Vector]()
    for stage in stages:
        here = slice(stage.start, stage.start + stage.weight.middle.shape[0])
        reached = sum_up(largest[here], error[here])
        summed = sum_up(product_up(reached, stage.weight_size), stage.bias_size)
        relative = stage.roundings * FLOAT32_ROUNDOFF
        require(relative < 0.5 and bool((summed < 2.0**127).all()), "float32 evaluation stays finite")
        lost = stage.roundings * LOST * (1 + float(stage.weight_size.max()) + float(reached.max()))
        relative = relative / (1 - relative) * (1 + slack(4))
        made.append(
            sum_up(product_up(reached, stage.weight_off), stage.bias_off, summed * relative, np.full_like(summed, lost))
        )
        crude.append(sum_up(product_up(error[here], stage.weight.size), made[-1]))
        largest = np.concatenate([largest, np.maximum(stage.z.upper, 0)])
        error = np.concatenate([error, crude[-1]])
    outputs = stages[-1].bias.middle.size
    adjoint = Ball.exactly(np.zeros((largest.size, outputs)))
    stop, total, back = largest.size, np.zeros(outputs), Ball.exactly(np.eye(outputs))
    for index in range(len(stages) - 1, -1, -1):
        stage = stages[index]
        start = stop - stage.bias.middle.size
        if index < len(stages) - 1:
            back = _switched(adjoint[start:stop], stage.z, crude[index])
        total = sum_up(total, product_up(made[index], back.size))
        here = slice(stage.start, stage.start + stage.weight.middle.shape[0])
        added = adjoint[here] + stage.weight @ back
        adjoint.middle[here], adjoint.radius[here] = added.middle, added.radius
        stop = start
    return total


def _switched(back: Ball, z: Range, error: Vector) -> Ball:
    """Adjoint before a ReLU: it passes a difference of up to `error` with a factor of 1, of 0, or between."""
    on, off = (z.lower >= error)[:, None], (z.upper <= -error)[:, None]
    low, high = np.minimum(back.middle - back.radius, 0), np.maximum(back.middle + back.radius, 0)
    middle, wide = (low + high) / 2, sum_up((high - low) / 2, (np.abs(low) + np.abs(high)) * slack(4))
    middle, wide = np.where(on, back.middle, middle), np.where(on, back.radius, wide)
    return Ball(np.where(off, 0.0, middle), np.where(off, 0.0, wide))


# ---- Claims.
@dataclass(frozen=True)
class Region:
    """What the certificate says of one region."""

    name: str
    box: Range
    units: tuple[str, ...]
    steps: tuple[tuple[int, Vector, Vector], ...]  # (start, weight [k, n], bias [n])
    real_bound: Vector
    bound: Vector


def check(graph: Graph, certificate: bytes) -> int:
    """Re-derive every claim; returns the number of regions.

    Raises FalseClaim naming the first claim that does not hold.
    """
    try:
        document = json.loads(certificate)
        with np.errstate(all="ignore"):  # What is not finite fails the comparisons.
            return _check_document(graph, document)
    except (ValueError, RecursionError) as error:
        raise FalseClaim(f"it cannot be read: {error}") from error


def _check_document(graph: Graph, document: Any) -> int:
    fields(document, "certificate", "schemaVersion", "graph", "box", "tree", "regions")
    require(document["schemaVersion"] == SCHEMA_VERSION, f"schemaVersion is not {SCHEMA_VERSION}")
    digest = hashlib.sha256(b"\0".join(serialize.dump(graph))).hexdigest()
    require(document["graph"] == f"sha256:{digest}", "graph is not the digest of this network")
    layers = read_layers(graph)
    regions = [_region(entry, f"region {index}", layers) for index, entry in enumerate(array(document, "regions"))]
    root = _box(document["box"], "box", graph.input.size)
    _check_tree(array(document, "tree"), root, regions)
    for region in regions:
        _check_region(region, layers)
    return len(regions)


def _check_region(region: Region, layers: Sequence[Affine]) -> None:
    ranges = unit_ranges(layers, region.box)
    for index, units in enumerate(region.units):
        kinds, z = np.array(list(units)), ranges[index]
        may_rise, may_fall = ~(z.upper <= 0), ~(z.lower >= 0)
        for unit in np.flatnonzero(np.where(kinds == "-", may_rise, (kinds != ".") & may_fall)):
            raise FalseClaim(f"{region.name}: unit {unit} of layer {index} can switch, but is said to be {kinds[unit]}")
    inputs = region.box.largest
    ours = rounding_error(_reduced(region, layers, ranges), inputs)
    require(bool((ours <= region.real_bound).all()), f"{region.name}: realBound is smaller than what can be shown")
    theirs = rounding_error(_source(layers, ranges), inputs)
    require(bool((sum_up(ours, theirs) <= region.bound).all()), f"{region.name}: bound is smaller than can be shown")


def _source(layers: Sequence[Affine], ranges: Sequence[Range]) -> list[Stage]:
    stages = []
    start, stop = 0, layers[0].weight.middle.shape[0]
    for layer, z in zip(layers, ranges, strict=True):
        off, sizes = (0 * layer.weight.middle, 0 * layer.bias.middle), (layer.weight_size, layer.bias_size)
        stages.append(Stage(start, layer.weight, layer.bias, *off, *sizes, layer.roundings, z))
        start, stop = stop, stop + layer.bias.middle.size
    return stages


def _reduced(region: Region, layers: Sequence[Affine], ranges: Sequence[Range]) -> list[Stage]:
    """The region's steps beside the exact functions they stand for, which follow from the units' kinds alone.

    `weight`, `bias`: the activations of the layer before, in terms of the state.
    """
    size = layers[0].weight.middle.shape[0]
    weight, bias = Ball.exactly(np.eye(size)), Ball.exactly(np.zeros((1, size)))
    stages: list[Stage] = []
    for index, layer in enumerate(layers):
        kinds = np.array(list((*region.units, "." * layer.bias.middle.size)[index]))
        kept, folded = (kinds == ".") | (kinds == "="), kinds == "+"
        weight, bias = weight @ layer.weight, bias @ layer.weight + layer.bias[None]
        if kept.any():
            require(len(stages) < len(region.steps), f"{region.name}: a step is missing")
            start, used, used_bias = region.steps[len(stages)]
            require(start + len(used) == size and used.shape[1] == kept.sum(), f"{region.name}: a step does not fit")
            wide = np.zeros((size, used.shape[1]))
            wide[start:] = used
            exact, exact_bias = weight[:, kept], bias[0, kept]
            off = sum_up(np.abs(wide - exact.middle), exact.radius)
            bias_off = sum_up(np.abs(used_bias - exact_bias.middle), exact_bias.radius)
            sizes, z = (np.abs(wide), np.abs(used_bias)), Range(ranges[index].lower[kept], ranges[index].upper[kept])
            stages.append(Stage(0, exact, exact_bias, off, bias_off, *sizes, len(used) + 2, z))
        unit = np.eye(kinds.size)[kept]
        weight, bias = (Ball(each.middle * folded, each.radius * folded) for each in (weight, bias))
        weight = Ball(np.concatenate([weight.middle, unit]), np.concatenate([weight.radius, 0 * unit]))
        size += int(kept.sum())
    require(len(stages) == len(region.steps), f"{region.name}: there is a step too many")
    return stages


def _check_tree(nodes: list[Any], root: Range, regions: Sequence[Region]) -> None:
    """Each region's box is exactly what the tree sends to it; every node and region is used once."""
    seen, hit, waiting = set[int](), set[int](), [(0, root)]
    while waiting:
        index, box = waiting.pop()
        name = f"tree: node {index}"
        require(0 <= index < len(nodes) and index not in seen, f"{name} is reached once")
        seen.add(index)
        node = nodes[index]
        require(isinstance(node, dict), f"{name} is an object")
        if node.keys() == {"region"}:
            number = integer(node, "region", name)
            require(0 <= number < len(regions) and number not in hit, f"{name} names a region of its own")
            hit.add(number)
            own = regions[number].box
            same = bool((own.lower == box.lower).all() and (own.upper == box.upper).all())
            require(same, f"region {number}: its box is what the tree sends to it")
        elif node.keys() == {"miss"}:
            require(node["miss"] is True, f"{name} is a miss")
        else:
            fields(node, name, "feature", "threshold", "left", "right")
            feature, left, right = (integer(node, key, name) for key in ("feature", "left", "right"))
            require(0 <= feature < box.lower.size and index < min(left, right), f"{name} is well formed")
            threshold = floats([node["threshold"]], 1, name)[0]
            require(bool(box.lower[feature] <= threshold < box.upper[feature]), f"{name} splits its box")
            upper, lower = box.upper.copy(), box.lower.copy()
            upper[feature] = lower[feature] = threshold
            waiting += [(left, Range(box.lower, upper)), (right, Range(lower, box.upper))]
    require(len(seen) == len(nodes) and len(hit) == len(regions), "tree: every node and region can be reached")


# ---- Reading, strictly.
def fields(entry: Any, name: str, *keys: str) -> None:
    require(isinstance(entry, dict) and entry.keys() == set(keys), f"{name} has the fields {', '.join(keys)}")


def array(entry: dict[str, Any], key: str) -> list[Any]:
    require(isinstance(entry[key], list), f"{key} is a list")
    return list(entry[key])


def integer(entry: dict[str, Any], key: str, name: str) -> int:
    value = entry[key]
    require(isinstance(value, int) and not isinstance(value, bool), f"{name}: {key} is a whole number")
    return int(value)


def floats(values: Any, count: int, name: str, *, single: bool = True) -> Vector:
    """Finite numbers; `single`: each is a float32."""
    require(isinstance(values, list) and len(values) == count, f"{name} has {count} numbers")
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e300 for v in values)
    require(good, f"{name} has finite numbers")
    found = np.array([float(v) for v in values])
    require(not single or bool((found.astype(np.float32) == found).all()), f"{name} has float32 numbers")
    return found


def _box(entry: Any, name: str, count: int) -> Range:
    fields(entry, name, "lower", "upper")
    lower, upper = floats(entry["lower"], count, f"{name}: lower"), floats(entry["upper"], count, f"{name}: upper")
    require(bool((lower <= upper).all()), f"{name}: lower <= upper")
    return Range(lower, upper)


def _region(entry: Any, name: str, layers: Sequence[Affine]) -> Region:
    fields(entry, name, "box", "units", "steps", "realBound", "bound")
    outputs, widths = layers[-1].bias.middle.size, [layer.bias.middle.size for layer in layers[:-1]]
    units = tuple(array(entry, "units"))
    good = len(units) == len(widths) and all(isinstance(u, str) for u in units)
    require(good and [len(u) for u in units] == widths, f"{name}: units has one letter per unit")
    require(set("".join(units)) <= set("-+=."), f"{name}: units are -, +, = or .")
    steps = []
    for step in array(entry, "steps"):
        fields(step, f"{name}: step", "start", "weight", "bias")
        weight, bias = _numbers(step["weight"], 2, name), _numbers(step["bias"], 1, name)
        start = integer(step, "start", name)
        require(start >= 0 and weight.shape[1:] == bias.shape, f"{name}: a step's weight and bias fit")
        steps.append((start, weight, bias))
    bounds = [floats(entry[key], outputs, f"{name}: {key}", single=False) for key in ("realBound", "bound")]
    box = _box(entry["box"], f"{name}: box", layers[0].weight.middle.shape[0])
    return Region(name, box, units, tuple(steps), bounds[0], bounds[1])


def _numbers(entry: Any, rank: int, name: str) -> Vector:
    """Little-endian float32 in base64."""
    fields(entry, f"{name}: numbers", "shape", "data")
    shape = array(entry, "shape")
    good = len(shape) == rank and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    require(good and isinstance(entry["data"], str), f"{name}: numbers have a shape")
    content = base64.b64decode(entry["data"])
    require(len(content) == 4 * math.prod(shape), f"{name}: numbers have their shape")
    found = np.frombuffer(content, dtype="<f4").astype(np.float64).reshape(shape)
    require(bool(np.isfinite(found).all()), f"{name}: numbers are finite")
    return found
