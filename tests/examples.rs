//! Do the examples work, with legacy servers that are not changed?
