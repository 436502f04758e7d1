"""The core: blocks, layers and array functions, written once and free of any framework."""
