//! Who was the limit: the endpoint, or the bench that should have measured it.

use serde::Serialize;

/// Share of all cores from which on a process, or two together, have used them up.
const CORES_SHARE: f64 = 0.9;
/// Share of the time that one thread must have been running to be what everything waited for.
const THREAD_SHARE: f64 = 0.95;
/// Share of the ceiling from which on a result is said to be the bench's.
const CEILING_SHARE: f64 = 0.8;
/// Lateness of the bench's own that cannot matter.
const LATENESS_MIN_MS: f64 = 1.0;
/// Share of the acknowledgement latency from which on the bench's own lateness spoils it.
const LATENESS_SHARE: f64 = 0.2;

/// What is known about one round.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence {
    /// CPU seconds per second of the null sink, if that was the endpoint.
    pub sink_cores: Option<f64>,
    pub cores_available: f64,
    /// CPU seconds per second of the bench.
    pub client_cores: f64,
    /// The same of its busiest thread.
    pub busiest_thread: f64,
    /// The same of the server, if it was watched.
    pub server_cores: Option<f64>,
    /// Appended and delivered.
    pub total_mib_s: f64,
    pub ceiling_mib_s: Option<f64>,
    /// 99th percentiles of how late the bench was without cause, and of acknowledgements.
    pub lateness_p99_ms: f64,
    pub acked_p99_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "limited_by", content = "why")]
pub enum Limit {
    /// The figures are those of the bench; the endpoint may be able to do more.
    Client(String),
    /// Bench and server together used up the machine that they share; apart, either might do more.
    Machine(String),
    /// There is no sign that the bench held the endpoint back.
    NotClient,
}

impl Evidence {
    /// The first rule that applies, in the order in which `docs/benchmarks.md` lists them.
    pub fn limit(&self) -> Limit {
        let cores = self.cores_available;
        if let Some(sink) = self.sink_cores {
            return Limit::Client(format!(
                "against the null sink it used {:.2} and the sink {sink:.2} of {cores} cores",
                self.client_cores
            ));
        }
        if let Some(ceiling) = self.ceiling_mib_s
            && self.total_mib_s >= CEILING_SHARE * ceiling
        {
            let share = 100.0 * self.total_mib_s / ceiling;
            return Limit::Client(format!("{share:.0} % of what it reached against the null sink"));
        }
        if self.client_cores >= CORES_SHARE * cores {
            return Limit::Client(format!("it used {:.2} of {cores} cores", self.client_cores));
        }
        if self.busiest_thread >= THREAD_SHARE {
            let share = 100.0 * self.busiest_thread;
            return Limit::Client(format!("one of its threads ran {share:.0} % of the time"));
        }
        if self.lateness_p99_ms >= LATENESS_MIN_MS
            && self.lateness_p99_ms >= LATENESS_SHARE * self.acked_p99_ms
        {
            return Limit::Client(format!(
                "it sent 1 % of the batches {:.1} ms late or more, though nothing held them back",
                self.lateness_p99_ms
            ));
        }
        match self.server_cores {
            Some(server) if server + self.client_cores >= CORES_SHARE * cores => Limit::Machine(format!(
                "it used {:.2} and the server {server:.2} of {cores} cores",
                self.client_cores
            )),
            _ => Limit::NotClient,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(why) => write!(f, "the client was the limit: {why}"),
            Self::Machine(why) => write!(f, "client and server shared the limit: {why}"),
            Self::NotClient => write!(f, "the client was not the limit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Evidence {
        Evidence {
            cores_available: 2.0,
            client_cores: 0.5,
            busiest_thread: 0.4,
            total_mib_s: 100.0,
            acked_p99_ms: 10.0,
            ..Evidence::default()
        }
    }

    fn client(evidence: Evidence) -> bool {
        matches!(evidence.limit(), Limit::Client(_))
    }

    #[test]
    fn a_client_with_room_is_not_the_limit() {
        assert_eq!(idle().limit(), Limit::NotClient);
        let near = Evidence {
            ceiling_mib_s: Some(126.0),
            server_cores: Some(1.2),
            lateness_p99_ms: 1.9,
            ..idle()
        };
        assert_eq!(near.limit(), Limit::NotClient);
    }

    #[test]
    fn each_sign_of_an_exhausted_client_is_enough() {
        assert!(client(Evidence {
            sink_cores: Some(0.1),
            ..idle()
        }));
        assert!(client(Evidence {
            ceiling_mib_s: Some(125.0),
            ..idle()
        }));
        assert!(client(Evidence {
            client_cores: 1.8,
            ..idle()
        }));
        assert!(client(Evidence {
            busiest_thread: 0.95,
            ..idle()
        }));
        assert!(client(Evidence {
            lateness_p99_ms: 2.0,
            ..idle()
        }));
        // Late in microseconds only.
        assert!(!client(Evidence {
            lateness_p99_ms: 0.9,
            acked_p99_ms: 1.0,
            ..idle()
        }));
    }

    #[test]
    fn a_machine_used_up_by_both_is_neither_ones_limit() {
        let both = Evidence {
            server_cores: Some(1.3),
            ..idle()
        };
        assert!(matches!(both.limit(), Limit::Machine(_)));
    }
}
