//! A node without a network between: races and turns that are hard to bring about from outside.

#[path = "in_process/chains.rs"]
mod chains;
#[path = "in_process/channels.rs"]
mod channels;
#[path = "in_process/deletion.rs"]
mod deletion;
#[path = "in_process/dying.rs"]
mod dying;
#[path = "in_process/express.rs"]
mod express;
#[path = "in_process/fixture.rs"]
mod fixture;
#[path = "in_process/live_read.rs"]
mod live_read;
#[path = "in_process/recoveries.rs"]
mod recoveries;
#[path = "in_process/segments.rs"]
mod segments;
#[path = "in_process/sorting.rs"]
mod sorting;
#[path = "support/stored.rs"]
mod stored;
#[path = "in_process/writers.rs"]
mod writers;
#[path = "in_process/zone_segments.rs"]
mod zone_segments;
#[path = "support/zones.rs"]
mod zones;
