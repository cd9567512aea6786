//! From a layer to a directory.
