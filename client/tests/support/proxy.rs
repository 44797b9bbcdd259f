//! A TCP proxy on loopback that breaks its connections: cuts them, holds them up, and closes one direction.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a connection lives, at most.
const LIFE_MS_MAX: u64 = 400;
const DELAY_MS_MAX: u64 = 60;

pub struct Proxy {
    addr: SocketAddr,
    faults: Arc<Faults>,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Faults {
    pub cuts: AtomicU64,
    pub delays: AtomicU64,
    pub half_closes: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Cut,
    /// The server hears no more; what it says still arrives, for a while.
    CloseUp,
    /// The client hears no more; what it says still arrives, for a while.
    CloseDown,
}

impl Proxy {
    /// In front of `target`; what it does follows from the seed and from what passes when.
    pub async fn start(target: SocketAddr, seed: u64) -> Self {
        #[allow(clippy::disallowed_methods, reason = "the network of the test, on loopback")]
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        let shared = faults.clone();
        tokio::spawn(async move {
            let mut seeds = StdRng::seed_from_u64(seed);
            while let Ok((client, _)) = listener.accept().await {
                let rng = StdRng::seed_from_u64(seeds.random());
                tokio::spawn(carry(client, target, rng, shared.clone()));
            }
        });
        Self { addr, faults }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut rng: StdRng, faults: Arc<Faults>) {
    #[allow(clippy::disallowed_methods, reason = "the network of the test, on loopback")]
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = match rng.random_range(0..4) {
        0 => End::CloseUp,
        1 => End::CloseDown,
        _ => End::Cut,
    };
    let life = Duration::from_millis(rng.random_range(1..LIFE_MS_MAX));
    let ends = Instant::now() + life;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up_rng = StdRng::seed_from_u64(rng.random());
    let down_rng = StdRng::seed_from_u64(rng.random());
    // What is left open after one direction closed is cut a little later: a peer that sees no end must not hold the
    // test up for as long as a keep-alive takes.
    let rest = Duration::from_millis(rng.random_range(1..LIFE_MS_MAX));
    let (up_end, down_end) = match end {
        End::Cut => (ends, ends),
        End::CloseUp => (ends, ends + rest),
        End::CloseDown => (ends + rest, ends),
    };
    let count = match end {
        End::Cut => &faults.cuts,
        End::CloseUp | End::CloseDown => &faults.half_closes,
    };
    count.fetch_add(1, Ordering::Relaxed);
    let up = pump(from_client, to_server, up_end, up_rng, &faults);
    let down = pump(from_server, to_client, down_end, down_rng, &faults);
    // The reading halves are kept until both are done, so that one direction closes alone.
    let _ = tokio::join!(up, down);
}

/// Copies until `end`, with pauses, and closes its direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    end: Instant,
    mut rng: StdRng,
    faults: &Faults,
) -> OwnedReadHalf {
    let copy = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let len = from.read(&mut buffer).await?;
            if len == 0 {
                return io::Result::Ok(());
            }
            if rng.random_ratio(1, 40) {
                faults.delays.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(rng.random_range(0..DELAY_MS_MAX))).await;
            }
            // A message may be cut anywhere.
            let cut = rng.random_range(0..=len);
            to.write_all(&buffer[..cut]).await?;
            to.write_all(&buffer[cut..len]).await?;
        }
    };
    tokio::select! {
        _ = copy => {}
        () = sleep_until(end) => {}
    }
    let _ = to.shutdown().await;
    from
}
