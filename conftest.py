"""Modules for other frameworks are read for their examples only where the framework is installed."""

from importlib.util import find_spec

_INTEGRATIONS = {"langchain": "langchain_core", "llama_index": "llama_index", "mteb": "mteb"}
collect_ignore = [
    f"python/optical_rs/integrations/{name}.py"
    for name, package in _INTEGRATIONS.items()
    if not find_spec(package)
]
if not (find_spec("qdrant_edge") and find_spec("lancedb")):
    collect_ignore.append("docs/how-to/engines.md")
if not find_spec("ir_measures"):
    collect_ignore.append("python/optical_rs/ranking/ir_measures.py")
