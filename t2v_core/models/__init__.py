"""Networks only: modules that know tensors, never files."""
