//! What `millrace storage` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::admin::args::ReachArgs;

/// Look after what is stored: print an object, check all of it, remove what nothing names
///
/// `verify` and `sweep` go through everything that a cluster, or a node that is alone, has stored. In a cluster one of
/// its nodes does the work and tells how it goes; which one, and how it is reached, is said as with `millrace cluster`.
/// A node that is alone is stopped first and its directory named with --data-dir.
///
/// Ends with 0 if all that was looked at is as it should be, and with 1 otherwise.
#[derive(Debug, Args)]
pub struct StorageArgs {
    #[command(subcommand)]
    pub command: StorageCommand,
}

#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Print what is in an object: its header, its runs or frames, and whether every checksum is right
    ///
    /// Knows chunks and seals (`wal/…`), segment objects (`segments/…`) and the marker of a store (`zone`). One that is
    /// damaged is printed as far as it can be read, and the command ends with 1.
    Inspect {
        /// A file, or with --store the object's key
        object: String,
        /// The store that has it: file:///DIR, s3://BUCKET/PREFIX?…, as for `millrace server`
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// Print the frames of each run, too
        #[arg(long)]
        frames: bool,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Read all that is stored and compare it with the metadata
    ///
    /// Every live segment object is there, each of its checksums is right, each run that metadata name is in it and is
    /// as they say, and the counts of what is alive in it are right; the segments of each stream follow each other
    /// without gap or overlap, from where it is kept to where it was flushed; and chunks that a recovery would read are
    /// there and whole. It may run while the cluster is in use, changes nothing, and reads every byte once.
    ///
    /// What is broken is printed as it is found, a line for each: the promise (present, whole, agreed, counted,
    /// tiled or copied), the object or stream, and why. With --json each line is an object, and the last one says what was
    /// checked. Ends with 1 if anything was broken, or not everything was checked.
    ///
    /// With --repair, where there are several zones, a copy that is bad or missing is put right with that of another
    /// zone, and printed as such. What has no good copy anywhere, and what stands in the one store of Standard streams,
    /// cannot be repaired. Ends with 0 if all that was broken is good now.
    Verify {
        /// Put good copies in the place of bad and missing ones
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Find objects that nothing names and nothing can come to name, and remove them
    ///
    /// Such orphans are what a crash leaves between two steps. Nodes look for them from time to time by themselves
    /// (--sweep-interval); this does it now. Age proves nothing: an object goes only if metadata, read after it was
    /// seen, show that its epoch is over or its number was committed without it, or that a chunk's records are in
    /// segments. Seals stay for ever. What cannot be judged (a key of another shape, a channel or an epoch that the
    /// metadata do not have) is printed as `unknown` and left alone: look at it before you remove it by hand.
    ///
    /// In a cluster, removing begins when readers have had the time to finish (--reader-grace of the node).
    Sweep {
        /// Print what would be removed and why, and remove nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        source: Source,
    },
}

/// Whose storage it is.
#[derive(Debug, Args)]
pub struct Source {
    /// Directory of a node that is alone and stopped: its metadata are read from there
    #[arg(long, value_name = "DIR", conflicts_with = "nodes")]
    pub data_dir: Option<PathBuf>,

    /// Where that node's streams are stored [default: where a node puts them that is given no --store]
    #[arg(long, value_name = "URL", requires = "data_dir")]
    pub store: Option<String>,

    /// That node's Express zones, if it has any
    #[arg(long, value_name = "URLS", requires = "data_dir")]
    pub express: Option<String>,

    #[command(flatten)]
    pub reach: ReachArgs,
}
