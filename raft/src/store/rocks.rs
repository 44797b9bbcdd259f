//! How the databases are opened. Whatever in RocksDB acts by a clock of its own is off.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    LogLevel, Options, ReadOptions, WriteOptions,
};

use crate::error::StoreError;

/// Memory for writes that are not in table files yet, per database.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Memory for blocks of table files, per database.
const CACHE_BYTES: usize = 32 << 20;
/// A write-ahead log larger than this makes the oldest family flush.
const WAL_BYTES_MAX: u64 = 256 << 20;

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Only a tail that was never synced may be torn. Anything else is corruption and must be looked at.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options
}

fn family_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_ttl(0);
    options.set_periodic_compaction_seconds(0);
    options
}

fn families(names: &[&'static str]) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    ["default"]
        .iter()
        .chain(names)
        .map(|name| ColumnFamilyDescriptor::new(*name, family_options(&cache)))
        .collect()
}

/// Opens or creates a database with these families. A family that is there but not named is an error: a later
/// release wrote it.
pub fn open(path: &Path, names: &[&'static str]) -> Result<DB, StoreError> {
    DB::open_cf_descriptors(&options(), path, families(names))
        .map_err(|error| StoreError::io("open database", error))
}

/// Opens a database that nobody writes. Its directory gets no new file but an information log. Families that it does
/// not have, because an earlier release wrote it, cannot be read.
pub fn open_read_only(path: &Path, names: &[&'static str]) -> Result<DB, StoreError> {
    let mut options = options();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    let there = DB::list_cf(&options, path).map_err(|error| StoreError::io("look into snapshot", error))?;
    let mut names = names.to_vec();
    names.retain(|name| there.iter().any(|there| there == name));
    DB::open_cf_descriptors_read_only(&options, path, families(&names), false)
        .map_err(|error| StoreError::io("open snapshot", error))
}

pub fn family<'a>(db: &'a DB, name: &'static str) -> Result<&'a ColumnFamily, StoreError> {
    db.cf_handle(name)
        .ok_or_else(|| StoreError::corrupt("database", format_args!("no family {name}")))
}

/// Options of a write that is on disk when it returns, with everything written before it.
pub fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Options of an ordered read up to `end` (exclusive; `None` is unbounded).
pub fn ordered(end: Option<&[u8]>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    if let Some(end) = end {
        options.set_iterate_upper_bound(end);
    }
    options
}
