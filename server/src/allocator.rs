//! How the program gets memory.
//!
//! Most of it are bodies of chunks and pages of caches that come and go by the hundred megabytes, on whichever thread:
//! the C library's heaps keep a tenth of that when it is gone. RocksDB, which is not written in Rust, stays with those.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static GLOBAL: Jemalloc = Jemalloc;

/// Given back to the system a second after it was freed, by threads of its own. In huge pages, where the system has them
/// on request: a cache that fills is half as much work for the kernel then. Without a random offset, which would put a
/// page of a cache on one page of memory more. `_RJEM_MALLOC_CONF` in the environment overrides it.
#[allow(
    unsafe_code,
    reason = "the library reads its options from a symbol of this name"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 76] = b"background_thread:true,dirty_decay_ms:1000,thp:always,cache_oblivious:false\0";
