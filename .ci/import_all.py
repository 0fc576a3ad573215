"""Imports every module of sepssl: is what setup.py requires enough, without any extra?"""

import importlib
import pkgutil

# For where perch-hoplite, X-ARES or MTEB is, and where the extra `onnx` is.
ADAPTERS = {f"sepssl.export.sepssl_{name}" for name in ("hoplite", "xares", "mteb")}
ELSEWHERE = ADAPTERS | {"sepssl.export.onnx_graph"}
# The last two lie in folders of other names, where an editable installation does not walk.
for package in ("sepssl", "sepssl.configs", "sepssl.export"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if module.name not in ELSEWHERE:
            importlib.import_module(module.name)
print("every module can be imported")
