"""Files and run directories on object stores and other machines, by fsspec."""
