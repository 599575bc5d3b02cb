//! One writer, many readers, lapping ring of fixed-size packets.
