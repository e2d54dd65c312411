"""The tests; a package because torch-fidelity installs another one of that name into
site-packages."""
