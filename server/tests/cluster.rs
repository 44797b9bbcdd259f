//! Several nodes of one cell, over real connections: in one process, or each in its own.

#[path = "cluster/admin.rs"]
mod admin;
#[path = "cluster/broken_disk.rs"]
mod broken_disk;
#[path = "cluster/cell.rs"]
mod cell;
#[path = "cluster/certificates.rs"]
mod certificates;
#[path = "cluster/cut_off.rs"]
mod cut_off;
#[path = "cluster/express.rs"]
mod express;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "cluster/forwarding.rs"]
mod forwarding;
#[path = "cluster/pages.rs"]
mod pages;
#[path = "cluster/paused.rs"]
mod paused;
#[path = "../../jepsen/src/live/ports.rs"]
mod ports;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/resend.rs"]
mod resend;
#[path = "support/stored.rs"]
mod stored;
#[path = "cluster/wire.rs"]
mod wire;
