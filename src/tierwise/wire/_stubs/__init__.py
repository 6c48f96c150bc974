"""Generated from open_inference.proto by scripts/generate_stubs.py; edit that file."""
