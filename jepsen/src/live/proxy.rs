//! Between a node and its store: passes on what they say, or does not.
//!
//! It knows nothing of HTTP but that requests and responses take turns on a connection. A response that is not passed
//! on was an answer to something that the store has done: so answers get lost after the effect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::edge;

const BUFFER_BYTES: usize = 64 << 10;

/// What is done to what passes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Manners {
    /// Part of the requests that do not reach the store; their connection breaks.
    pub refuse: f64,
    /// Part of the responses that do not reach the node; their connection breaks.
    pub lose: f64,
    /// The longest delay of a response; each has one of its own.
    pub delay_max: Duration,
}

/// One proxy, for one node. It ends when it is dropped, and so do its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    manners: Arc<Mutex<Manners>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of `ip`, for who wants to talk to `store` (host and port).
    pub async fn start(ip: IpAddr, store: String, seed: u64) -> io::Result<Self> {
        let listener = edge::listen(ip).await?;
        let address = listener.local_addr()?;
        let manners = Arc::new(Mutex::new(Manners::default()));
        let shared = manners.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = seed;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        // Out of file handles, perhaps: later there may be some.
                        let Ok((node, _)) = accepted else {
                            sleep(Duration::from_millis(50)).await;
                            continue;
                        };
                        number = number.wrapping_add(1);
                        connections.spawn(pass(node, store.clone(), shared.clone(), number));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self {
            address,
            manners,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, manners: Manners) {
        *self.manners.lock().unwrap_or_else(PoisonError::into_inner) = manners;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, until either side ends it or it is broken off.
async fn pass(node: TcpStream, store: String, manners: Arc<Mutex<Manners>>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    // An error ends the connection, which is what it means on either side.
    let _ = pass_on(node, &store, &manners, &mut rng).await;
}

async fn pass_on(
    mut node: TcpStream,
    store: &str,
    manners: &Mutex<Manners>,
    rng: &mut SmallRng,
) -> io::Result<()> {
    let manners = || *manners.lock().unwrap_or_else(PoisonError::into_inner);
    node.set_nodelay(true)?;
    let mut store = edge::connect_to(store).await?;
    let (mut from_node, mut to_node) = node.split();
    let (mut from_store, mut to_store) = store.split();
    let mut up = vec![0; BUFFER_BYTES];
    let mut down = vec![0; BUFFER_BYTES];
    // Whose turn it was last: a change of turns begins a request or a response.
    let mut asking = false;
    loop {
        tokio::select! {
            read = from_node.read(&mut up) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                if !asking && rng.random_bool(manners().refuse) {
                    return Ok(());
                }
                asking = true;
                to_store.write_all(&up[..len]).await?;
            }
            read = from_store.read(&mut down) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                if asking {
                    let manners = manners();
                    sleep(manners.delay_max.mul_f64(rng.random())).await;
                    if rng.random_bool(manners.lose) {
                        return Ok(());
                    }
                }
                asking = false;
                to_node.write_all(&down[..len]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Answers each request of four bytes with the same four bytes, and counts them.
    async fn echo() -> (SocketAddr, Arc<Mutex<u32>>) {
        let listener = edge::listen(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(0));
        let count = taken.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4];
                    while stream.read_exact(&mut buffer).await.is_ok() {
                        *count.lock().unwrap() += 1;
                        stream.write_all(&buffer).await.unwrap();
                    }
                });
            }
        });
        (address, taken)
    }

    async fn ask(proxy: &Proxy) -> bool {
        let mut stream = edge::connect(proxy.address()).await.unwrap();
        let mut answer = [0; 4];
        let asked = stream.write_all(b"ping").await.is_ok();
        asked && stream.read_exact(&mut answer).await.is_ok() && &answer == b"ping"
    }

    #[tokio::test]
    async fn an_answer_is_lost_after_the_effect_and_a_refusal_has_none() {
        let (store, taken) = echo().await;
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST.into(), store.to_string(), 1)
            .await
            .unwrap();
        assert!(ask(&proxy).await);
        assert_eq!(*taken.lock().unwrap(), 1);
        proxy.set(Manners {
            lose: 1.0,
            ..Manners::default()
        });
        assert!(!ask(&proxy).await);
        assert_eq!(*taken.lock().unwrap(), 2, "it was done all the same");
        proxy.set(Manners {
            refuse: 1.0,
            ..Manners::default()
        });
        assert!(!ask(&proxy).await);
        assert_eq!(*taken.lock().unwrap(), 2, "the store has not heard of it");
        proxy.set(Manners::default());
        assert!(ask(&proxy).await);
    }
}
