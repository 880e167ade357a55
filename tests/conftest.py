"""The `ebbtide` fixture comes from the package's own pytest plugin, ebbtide.pytest_plugin."""

import os

from hypothesis import settings

for name in [name for name in os.environ if name.startswith(("AWS_", "EBBTIDE_"))]:
    del os.environ[name]  # a developer's own account and server are not for tests

settings.register_profile("tests", deadline=None)  # nothing here depends on how fast the machine is
settings.load_profile("tests")
