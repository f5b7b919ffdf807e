"""Search on a small machine: a trained model as a folder that needs no torch.

:func:`~optical_rs.edge.export.export` writes the folder on the machine that trained (extra ``export``);
:class:`~optical_rs.edge.encoder.Encoder` encodes with onnxruntime and tokenizers (extra ``edge``).
"""

from .encoder import Encoder

__all__ = ["Encoder"]
