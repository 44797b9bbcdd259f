//! Three nodes of one cell in one process, over real connections.

#[path = "cluster/broken_disk.rs"]
mod broken_disk;
#[path = "cluster/cell.rs"]
mod cell;
#[path = "cluster/cut_off.rs"]
mod cut_off;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "cluster/forwarding.rs"]
mod forwarding;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/wire.rs"]
mod wire;
