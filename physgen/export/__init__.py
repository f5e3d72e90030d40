"""What a surrogate becomes outside physgen: one file a target, and exported models in Python.

```python
from physgen import export

model = export.load("calo-onnx")         # what `physgen export RUN --to onnx -o calo-onnx` wrote
samples = model.sample(1000, {"energy": 5000.0}, seed=1)
```
"""

from physgen.export.loaded import ExportedSurrogate as ExportedSurrogate
from physgen.export.loaded import Samples as Samples
from physgen.export.loaded import load as load

__all__ = ["ExportedSurrogate", "Samples", "load"]
