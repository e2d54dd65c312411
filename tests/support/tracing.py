"""torch.compile without generating code, which takes seconds for each size and changes the rounding."""

from torch._dynamo.backends.registry import lookup_backend

# The graphs that were to be turned into code, by their number of operations.
graphs: list[int] = []


def backend(graph, inputs, **options):
    """Takes the place of `cld_core.nets.compiled.BACKEND`: graphs are traced, cut and differentiated as always."""
    graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
    return lookup_backend("aot_eager")(graph, inputs)
