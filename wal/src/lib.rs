//! Chunks, zone stores, quorum, seal and recovery.
